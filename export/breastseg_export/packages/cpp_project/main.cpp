// breastseg BUNDLE FRAME.ppm MASK.pgm   segments one frame (binary PPM, or PGM for grey)
// breastseg BUNDLE --self-test          holds the goldens beside the bundle to its manifest's limit, and times a frame
// breastseg BUNDLE FRAME.ppm OUT.f32 --time
//     segments the frame once for each line on stdin and prints milliseconds of the clock and of the processor; writes the
//     probability at the end
#include "breastseg.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <sstream>

using breastseg::Bytes;

// The pixels of a binary PPM or PGM of 8 bits as RGB; a grey one repeats its channel.
static Bytes read_frame(const std::string& path, std::size_t height, std::size_t width) {
    const Bytes content = breastseg::read_file(path);
    std::istringstream header(std::string(content.begin(), content.begin() + std::min<std::size_t>(content.size(), 64)));
    std::string kind;
    std::size_t columns = 0, rows = 0, white = 0;
    header >> kind >> columns >> rows >> white;
    const std::size_t channels = kind == "P6" ? 3 : kind == "P5" ? 1 : 0;
    const std::size_t start = header ? static_cast<std::size_t>(header.tellg()) + 1 : 0;
    if (!start || !channels || white != 255 || content.size() != start + rows * columns * channels)
        throw std::runtime_error(path + " must be a whole binary PPM or PGM of 8 bits without comments");
    if (rows != height || columns != width)
        throw std::runtime_error(path + " has " + std::to_string(rows) + " x " + std::to_string(columns) + " pixels, the bundle takes " +
                                 std::to_string(height) + " x " + std::to_string(width) + "; nothing is resized");
    Bytes rgb;
    for (std::size_t i = start; i < content.size(); ++i) rgb.insert(rgb.end(), channels == 3 ? 1 : 3, content[i]);
    return rgb;
}

static void write_mask(const std::string& path, const Bytes& mask, std::size_t height, std::size_t width) {
    std::ofstream file(path, std::ios::binary);
    file << "P5\n" << width << " " << height << "\n255\n";
    for (const auto pixel : mask) file.put(static_cast<char>(pixel ? 255 : 0));
    if (!file.flush()) throw std::runtime_error("cannot write " + path + "; make room or choose another place");
}

static double dice(const Bytes& one, const Bytes& other) {
    std::size_t both = 0, sum = 0;
    for (std::size_t i = 0; i < one.size(); ++i) both += one[i] && other[i], sum += one[i] + other[i];
    return sum ? 2.0 * both / sum : 1.0;
}

static double milliseconds_of(breastseg::Segmenter& segment, const Bytes& frame, breastseg::Segmentation& found) {
    const auto started = std::chrono::steady_clock::now();
    found = segment(frame);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count();
}

static int self_test(breastseg::Segmenter& segment, const std::string& folder) {
    const breastseg::Json goldens = breastseg::Json::parse(breastseg::read_file(folder + "/goldens.json"));
    int missed = 0;
    double milliseconds = 0;
    for (const auto& golden : goldens.at("goldens").items) {
        const std::string name = folder + "/" + golden.at("name").text;
        const Bytes frame = breastseg::read_file(name + ".frame.u8"), stored = breastseg::read_file(name + ".probability.f32");
        if (breastseg::sha256(frame) != golden.at("frame_sha256").text || breastseg::sha256(stored) != golden.at("probability_sha256").text)
            throw std::runtime_error(name + " was altered; package the bundle again");
        std::vector<float> expected(stored.size() / sizeof(float));
        std::memcpy(expected.data(), stored.data(), stored.size());
        breastseg::Segmentation found = segment(frame);
        for (int round = 0; round < 3; ++round) {
            const double took = milliseconds_of(segment, frame, found);
            milliseconds = milliseconds ? std::min(milliseconds, took) : took;
        }
        if (expected.size() != found.probability.size()) throw std::runtime_error(name + " is of another size; package the bundle again");
        float error = 0;
        Bytes mask(expected.size());
        for (std::size_t i = 0; i < expected.size(); ++i) {
            error = std::max(error, std::abs(expected[i] - found.probability[i]));
            mask[i] = expected[i] >= segment.threshold;
        }
        const double agreement = dice(mask, found.mask);
        missed += agreement < segment.worst_dice;
        std::printf("%s: Dice %.6f (at least %.6f), largest probability error %.2e\n", golden.at("name").text.c_str(), agreement,
                    segment.worst_dice, error);
    }
    std::printf("fastest frame: %.1f ms\n", milliseconds);
    if (missed) std::fprintf(stderr, "error: %d goldens miss the limit; do not use this build\n", missed);
    return missed ? 3 : 0;
}

static void time_frames(breastseg::Segmenter& segment, const Bytes& frame, const std::string& path) {
    breastseg::Segmentation found = segment(frame);  // not timed: the first call sets buffers up
    for (std::string line; std::getline(std::cin, line);) {
        const std::clock_t started = std::clock();
        const double took = milliseconds_of(segment, frame, found);
        std::cout << took << ' ' << 1e3 * static_cast<double>(std::clock() - started) / CLOCKS_PER_SEC << std::endl;
    }
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(found.probability.data()), static_cast<std::streamsize>(found.probability.size() * sizeof(float)));
    if (!file.flush()) throw std::runtime_error("cannot write " + path + "; make room or choose another place");
}

int main(int count, char** words) {
    try {
        const bool test = count == 3 && std::string(words[2]) == "--self-test";
        const bool timed = count == 5 && std::string(words[4]) == "--time";
        if (!test && !timed && count != 4) {
            std::cerr << "usage: breastseg BUNDLE FRAME.ppm MASK.pgm | breastseg BUNDLE --self-test | breastseg BUNDLE FRAME.ppm OUT.f32 --time\n";
            return 2;
        }
        breastseg::Segmenter segment(words[1], BREASTSEG_MANIFEST_SHA256);
        if (test) return self_test(segment, words[1]);
        const Bytes frame = read_frame(words[2], segment.height, segment.width);
        if (timed)
            time_frames(segment, frame, words[3]);
        else
            write_mask(words[3], segment(frame).mask, segment.height, segment.width);
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
