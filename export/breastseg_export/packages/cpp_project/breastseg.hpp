// A bundle of breastseg_deploy in C++17: checks model.onnx against the manifest, takes 8-bit RGB frames, gives probabilities and masks.
// The engine is OpenVINO; with BREASTSEG_ONNXRUNTIME it is ONNX Runtime's C API. Every failure is a std::runtime_error of one sentence.
#pragma once
#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>
#ifdef BREASTSEG_ONNXRUNTIME
#include <onnxruntime_c_api.h>
#else
#include <openvino/openvino.hpp>
#endif

namespace breastseg {

using Bytes = std::vector<std::uint8_t>;

inline Bytes read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path + "; check its name and permissions");
    return Bytes(std::istreambuf_iterator<char>(file), {});
}

// SHA-256 of a message, as 64 hexadecimal digits. Source: FIPS 180-4.
inline std::string sha256(const Bytes& message) {
    static const std::uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    };
    std::uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    Bytes padded(message);
    padded.push_back(0x80);
    while (padded.size() % 64 != 56) padded.push_back(0);
    for (int shift = 56; shift >= 0; shift -= 8) padded.push_back(static_cast<std::uint8_t>((message.size() * 8ull) >> shift));
    const auto turned = [](std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); };
    for (std::size_t start = 0; start < padded.size(); start += 64) {
        std::uint32_t w[64];
        for (int t = 0; t < 16; ++t) {
            const std::uint8_t* p = &padded[start + 4 * t];
            w[t] = std::uint32_t(p[0]) << 24 | std::uint32_t(p[1]) << 16 | std::uint32_t(p[2]) << 8 | p[3];
        }
        for (int t = 16; t < 64; ++t) {
            const std::uint32_t a = turned(w[t - 15], 7) ^ turned(w[t - 15], 18) ^ (w[t - 15] >> 3);
            const std::uint32_t b = turned(w[t - 2], 17) ^ turned(w[t - 2], 19) ^ (w[t - 2] >> 10);
            w[t] = w[t - 16] + a + w[t - 7] + b;
        }
        std::uint32_t v[8];
        std::copy(h, h + 8, v);
        for (int t = 0; t < 64; ++t) {
            const std::uint32_t one = v[7] + (turned(v[4], 6) ^ turned(v[4], 11) ^ turned(v[4], 25)) +
                                      ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[t] + w[t];
            const std::uint32_t two = (turned(v[0], 2) ^ turned(v[0], 13) ^ turned(v[0], 22)) +
                                      ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            for (int i = 7; i > 0; --i) v[i] = v[i - 1];
            v[4] += one;
            v[0] = one + two;
        }
        for (int i = 0; i < 8; ++i) h[i] += v[i];
    }
    std::string hex;
    for (const std::uint32_t word : h)
        for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[(word >> shift) & 15];
    return hex;
}

// A value of a JSON document; numbers as double, what is missing as a std::runtime_error.
struct Json {
    std::string text;  // of a string
    double number = 0;
    std::vector<Json> items;
    std::map<std::string, Json> fields;

    const Json& at(const std::string& name) const {
        const auto found = fields.find(name);
        if (found == fields.end()) throw std::runtime_error("the JSON holds no \"" + name + "\"; package the bundle again");
        return found->second;
    }
    static Json parse(const Bytes& content) {
        const char *at = reinterpret_cast<const char*>(content.data()), *end = at + content.size();
        return value(at, end);
    }

  private:
    static char next(const char*& at, const char* end) {
        while (at < end && std::strchr(" \n\r\t", *at)) ++at;
        if (at == end) throw std::runtime_error("the JSON ends too early; package the bundle again");
        return *at;
    }
    static std::string string(const char*& at, const char* end) {
        std::string found;
        for (++at; at < end && *at != '"'; ++at) {
            if (*at == '\\' && ++at < end && *at == 'u') found += '?', at += 4;  // no name or hash that is read here has one
            else if (at < end) found += *at;
        }
        if (at >= end) throw std::runtime_error("the JSON ends inside a string; package the bundle again");
        ++at;
        return found;
    }
    static Json value(const char*& at, const char* end) {
        Json found;
        const char first = next(at, end);
        if (first == '{' || first == '[') {
            const char last = first == '{' ? '}' : ']';
            ++at;
            while (next(at, end) != last) {
                if (*at == ',') ++at, next(at, end);
                if (first == '[') {
                    found.items.push_back(value(at, end));
                    continue;
                }
                const std::string name = string(at, end);
                if (next(at, end) != ':') throw std::runtime_error("the JSON lacks a colon; package the bundle again");
                found.fields[name] = value(++at, end);
            }
            ++at;
        } else if (first == '"') {
            found.text = string(at, end);
        } else {  // a number, true, false or null
            const char* start = at;
            while (at < end && !std::strchr(",]} \n\r\t", *at)) ++at;
            if (std::isdigit(static_cast<unsigned char>(*start)) || *start == '-') found.number = std::stod(std::string(start, at));
        }
        return found;
    }
};

struct Segmentation {
    std::vector<float> probability;  // height x width, row by row
    Bytes mask;                      // 1 where the probability reaches the threshold, else 0
};

// An opened bundle. One thread at a time may call it.
class Segmenter {
  public:
    std::size_t height, width;
    float threshold;
    double worst_dice;  // the least Dice that the export allowed any frame

    // folder: holds manifest.json and model.onnx. manifest_sha256: of the manifest that this program was made for.
    Segmenter(const std::string& folder, const std::string& manifest_sha256) {
        const Bytes content = read_file(folder + "/manifest.json");
        if (sha256(content) != manifest_sha256)
            throw std::runtime_error(folder + "/manifest.json is not the one that this program was made for; package the bundle again");
        const Json manifest = Json::parse(content);
        height = static_cast<std::size_t>(manifest.at("frame").at("height_px").number);
        width = static_cast<std::size_t>(manifest.at("frame").at("width_px").number);
        threshold = static_cast<float>(manifest.at("threshold").number);
        for (const Json& artefact : manifest.at("artefacts").items)
            if (artefact.at("role").text == "portable") worst_dice = artefact.at("limits").at("worst_dice").number;
        const Bytes model = read_file(folder + "/model.onnx");  // what is loaded is what was hashed
        if (sha256(model) != manifest.at("files").at("model.onnx").at("sha256").text)
            throw std::runtime_error(folder + "/model.onnx was altered: its SHA-256 is not the one in the manifest; copy the bundle again");
        load(model);
    }

    // rgb: height x width x 3, row by row, as the camera gave it; nothing is resized.
    Segmentation operator()(const Bytes& rgb) {
        if (rgb.size() != height * width * 3)
            throw std::runtime_error("a frame must hold " + std::to_string(height) + " x " + std::to_string(width) + " x 3 bytes, got " +
                                     std::to_string(rgb.size()) + "; cut it into tiles of that size");
        Segmentation found{infer(rgb), Bytes(height * width)};
        for (std::size_t i = 0; i < found.mask.size(); ++i) {
            const float p = found.probability[i];
            if (!(p >= -1e-6f && p <= 1 + 1e-6f)) throw std::runtime_error("the engine gave a value that is no probability; do not use it");
            found.mask[i] = p >= threshold;
        }
        return found;
    }

  private:
#ifdef BREASTSEG_ONNXRUNTIME
    const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    template <class T>
    using Held = std::unique_ptr<T, void(ORT_API_CALL*)(T*)>;
    Held<OrtEnv> env{nullptr, api->ReleaseEnv};
    Held<OrtSession> session{nullptr, api->ReleaseSession};

    void check(OrtStatus* status) {
        const Held<OrtStatus> held(status, api->ReleaseStatus);
        if (status) throw std::runtime_error(std::string("ONNX Runtime failed: ") + api->GetErrorMessage(status));
    }
    void load(const Bytes& model) {
        OrtEnv* made = nullptr;
        check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "breastseg", &made));
        env.reset(made);
        OrtSessionOptions* options = nullptr;
        check(api->CreateSessionOptions(&options));
        const Held<OrtSessionOptions> held(options, api->ReleaseSessionOptions);
        OrtSession* opened = nullptr;
        check(api->CreateSessionFromArray(env.get(), model.data(), model.size(), options, &opened));
        session.reset(opened);
    }
    std::vector<float> infer(const Bytes& rgb) {
        OrtMemoryInfo* memory = nullptr;
        check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
        const Held<OrtMemoryInfo> held_memory(memory, api->ReleaseMemoryInfo);
        const std::int64_t shape[] = {1, static_cast<std::int64_t>(height), static_cast<std::int64_t>(width), 3};
        OrtValue *frames = nullptr, *probability = nullptr;
        check(api->CreateTensorWithDataAsOrtValue(memory, const_cast<std::uint8_t*>(rgb.data()), rgb.size(), shape, 4,
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &frames));
        const Held<OrtValue> held_frames(frames, api->ReleaseValue);
        const char *input = "frames", *output = "probability";
        check(api->Run(session.get(), nullptr, &input, &frames, 1, &output, 1, &probability));
        const Held<OrtValue> held_probability(probability, api->ReleaseValue);
        void* values = nullptr;
        check(api->GetTensorMutableData(probability, &values));
        const float* first = static_cast<const float*>(values);
        return std::vector<float>(first, first + height * width);
    }
#else
    ov::InferRequest request;

    void load(const Bytes& model) {
        static ov::Core core;
        const std::string content(model.begin(), model.end());
        const auto network = core.read_model(content, ov::Tensor());
        network->reshape(ov::PartialShape{1, static_cast<std::int64_t>(height), static_cast<std::int64_t>(width), 3});
        // Float32, as the bundle was verified: some processors would otherwise compute in bfloat16 without a word.
        request = core.compile_model(network, "CPU", ov::hint::inference_precision(ov::element::f32),
                                     ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)).create_infer_request();
    }
    std::vector<float> infer(const Bytes& rgb) {
        request.set_input_tensor(ov::Tensor(ov::element::u8, {1, height, width, 3}, const_cast<std::uint8_t*>(rgb.data())));
        request.infer();
        const ov::Tensor probability = request.get_output_tensor();
        const float* first = probability.data<const float>();
        return std::vector<float>(first, first + height * width);
    }
#endif
};

}  // namespace breastseg
