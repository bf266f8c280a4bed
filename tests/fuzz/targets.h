// What the fuzzers feed: each takes any bytes and returns whether they were accepted; a crash, a
// hang or a sanitizer's report is the only failure. Thread-safe.
#pragma once

#include <cstdint>
#include <span>

namespace intermix::fuzz {

// A safetensors file. An accepted one's entries lie inside the bytes, apart from each other, and
// are all read.
bool Safetensors(std::span<const uint8_t> bytes);

// A config.json with or without a quantization_config.
bool Config(std::span<const uint8_t> bytes);

// A tokenizer.model, and a text encoded by it.
bool Tokenizer(std::span<const uint8_t> bytes);

// A tokenizer.json, and a text encoded by it and decoded again.
bool TokenizerJson(std::span<const uint8_t> bytes);

}  // namespace intermix::fuzz
