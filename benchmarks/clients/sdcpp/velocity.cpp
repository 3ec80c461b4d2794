// A velocity of stable-diffusion.cpp's own FLUX.2 transformer.
//
//   velocity MODEL.gguf REQUEST ANSWER THREADS
//
// REQUEST  int32 pictures, channels, rows, columns, tokens, width; float32 sigma; float32
//          z [pictures, channels, rows, columns]; float32 captions [pictures, tokens, width]
// ANSWER   float32 [pictures, channels, rows, columns]
// On stdout: the seconds that the computation took, without loading.

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "flux.hpp"
#include "model.h"

namespace {

constexpr const char* PREFIX = "model.diffusion_model";

[[noreturn]] void fail(const char* why) {
    std::fprintf(stderr, "%s\n", why);
    std::exit(1);
}

template <typename T>
std::vector<T> read(std::ifstream& file, int64_t n) {
    std::vector<T> values(n);
    if (!file.read(reinterpret_cast<char*>(values.data()), n * sizeof(T)))
        fail("the request is cut short");
    return values;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5)
        fail("usage: velocity MODEL REQUEST ANSWER THREADS");
    ModelLoader loader;
    if (!loader.init_from_file_and_convert_name(argv[1], std::string(PREFIX) + "."))
        fail("the model cannot be read");
    ggml_backend_t backend = ggml_backend_cpu_init();
    Flux::FluxRunner flux(backend, false, loader.get_tensor_storage_map(), PREFIX, VERSION_FLUX2, false);
    flux.alloc_params_buffer();
    std::map<std::string, ggml_tensor*> tensors;
    flux.get_param_tensors(tensors, PREFIX);
    if (!loader.load_tensors(tensors))
        fail("its tensors cannot be loaded");

    std::ifstream request(argv[2], std::ios::binary);
    const auto n = read<int32_t>(request, 6);
    const int64_t pictures = n[0], channels = n[1], rows = n[2], columns = n[3];
    const auto sigma    = read<float>(request, 1);
    const auto z        = read<float>(request, pictures * channels * rows * columns);
    const auto captions = read<float>(request, pictures * n[4] * n[5]);

    std::ofstream answer(argv[3], std::ios::binary);
    double seconds = 0;
    for (int64_t i = 0; i < pictures; ++i) {  // its graph takes one picture at a time
        const int64_t state = channels * rows * columns, words = int64_t(n[4]) * n[5];
        sd::Tensor<float> x({columns, rows, channels, 1}, {z.begin() + i * state, z.begin() + (i + 1) * state});
        sd::Tensor<float> caption({n[5], n[4], 1}, {captions.begin() + i * words, captions.begin() + (i + 1) * words});
        sd::Tensor<float> time({1}, {sigma[0]});
        const auto began = std::chrono::steady_clock::now();
        const auto v     = flux.compute(std::atoi(argv[4]), x, time, caption);
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
        if (v.numel() != state)
            fail("the computation failed");
        answer.write(reinterpret_cast<const char*>(v.data()), state * sizeof(float));
    }
    std::printf("%.6f\n", seconds);
    return answer.good() ? 0 : 1;
}
