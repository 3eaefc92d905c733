/* As much of the CUDA runtime, cuBLAS and cuDNN as ONNX Runtime calls while it opens a session, over the host's memory.
   Preloaded, it lets the real CUDA provider choose its kernels for a graph where there is no GPU. Nothing can run. */
#include <stdlib.h>
#include <string.h>

#define DONE(name) int name(void) { return 0; }
#define HANDLE(name) int name(void **handle) { *handle = (void *)0x10; return 0; }

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDeviceProperties(void *properties, int device) { memset(properties, 0, 512); return 0; }
int cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = 9; return 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = 8ull << 30; return 0; }
int cudaMalloc(void **place, size_t size) { *place = aligned_alloc(256, (size + 255) / 256 * 256); return 0; }
int cudaMallocHost(void **place, size_t size) { return cudaMalloc(place, size); }
int cudaHostAlloc(void **place, size_t size, unsigned flags) { return cudaMalloc(place, size); }
int cudaFree(void *place) { free(place); return 0; }
int cudaFreeHost(void *place) { free(place); return 0; }
int cudaMemcpy(void *to, void *from, size_t size, int kind) { memcpy(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
int cudaMemset(void *place, int value, size_t size) { memset(place, value, size); return 0; }
int cudaMemsetAsync(void *place, int value, size_t size, void *stream) { memset(place, value, size); return 0; }

HANDLE(cudaEventCreate) HANDLE(cudaEventCreateWithFlags) HANDLE(cudaStreamCreate) HANDLE(cudaStreamCreateWithFlags)
HANDLE(cublasCreate_v2) HANDLE(cublasLtCreate) HANDLE(cudnnCreate)
DONE(cublasDestroy_v2) DONE(cublasLtDestroy) DONE(cublasSetMathMode) DONE(cublasSetStream_v2) DONE(cublasSetWorkspace_v2)
DONE(cudaDeviceSynchronize) DONE(cudaDriverGetVersion) DONE(cudaEventDestroy) DONE(cudaEventRecord) DONE(cudaFuncSetAttribute)
DONE(cudaGetLastError) DONE(cudaPeekAtLastError) DONE(cudaRuntimeGetVersion) DONE(cudaSetDevice) DONE(cudaStreamDestroy)
DONE(cudaStreamSynchronize) DONE(cudaStreamWaitEvent) DONE(cudnnDestroy) DONE(cudnnSetStream)
