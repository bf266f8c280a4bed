#include "launch/request_options.h"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "google/protobuf/util/json_util.h"

namespace intermix {
namespace {

void AddSamplingOptions(CLI::App& command, v1::SamplingParams* sampling) {
  command.add_option_function<uint32_t>(
      "--max-tokens", [sampling](uint32_t n) { sampling->set_max_tokens(n); },
      "Tokens to generate at most (default 128)");
  command.add_option_function<float>(
      "--temperature", [sampling](float t) { sampling->set_temperature(t); },
      "0 takes the likeliest token (default)");
  command.add_option_function<uint32_t>(
      "--top-k", [sampling](uint32_t k) { sampling->set_top_k(k); },
      "Sample from the k likeliest tokens (0: all)");
  command.add_option_function<float>(
      "--top-p", [sampling](float p) { sampling->set_top_p(p); },
      "Sample from the likeliest tokens that reach this probability together");
  command.add_option_function<uint64_t>(
      "--seed", [sampling](uint64_t seed) { sampling->set_seed(seed); },
      "Same seed, same tokens (default: drawn)");
  command.add_flag_callback(
      "--ignore-eos", [sampling] { sampling->set_ignore_eos(true); },
      "Generate past the end of the text");
  command.add_option_function<std::vector<uint32_t>>(
      "--stop-token-ids",
      [sampling](const std::vector<uint32_t>& ids) {
        sampling->mutable_stop_token_ids()->Add(ids.begin(), ids.end());
      },
      "Further tokens that end the answer");
}

}  // namespace

void AddRequestOptions(CLI::App& command, RequestOptions& options) {
  v1::GenerateRequest* request = &options.request;
  CLI::Option_group* prompt = command.add_option_group("Prompt");
  prompt->add_option_function<std::string>(
      "--prompt", [request](const std::string& text) { request->set_text(text); }, "Text");
  prompt->add_option("--prompt-file", options.prompt_file, "File of text; - is stdin");
  prompt->add_option_function<std::vector<uint32_t>>(
      "--token-ids",
      [request](const std::vector<uint32_t>& ids) {
        request->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
      },
      "Tokens, taken as they are");
  prompt->require_option(1);
  command.add_flag_callback(
      "--no-special-tokens", [request] { request->set_add_special_tokens(false); },
      "Do not put the begin-of-sequence token before the text");
  AddSamplingOptions(command, request->mutable_sampling());
  command.add_flag("--stream-json", options.stream_json, "Print one JSON object for each message");
}

absl::Status ReadPromptFile(RequestOptions& options) {
  if (options.prompt_file.empty()) return absl::OkStatus();
  std::ifstream file;
  const bool from_stdin = options.prompt_file == "-";
  if (!from_stdin) file.open(options.prompt_file, std::ios::binary);
  std::istream& in = from_stdin ? std::cin : file;
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", options.prompt_file));
  options.request.set_text(std::string(std::istreambuf_iterator<char>(in), {}));
  return absl::OkStatus();
}

void AnswerPrinter::Print(const v1::GenerateResponse& response) {
  if (response.has_delta()) first_token_ = std::min(first_token_, absl::Now());
  if (as_json_) {
    std::string json;
    google::protobuf::util::JsonPrintOptions print;
    print.preserve_proto_field_names = true;
    (void)google::protobuf::util::MessageToJsonString(response, &json, print);
    std::printf("%s\n", json.c_str());
  } else if (response.has_delta()) {
    std::fwrite(response.delta().text().data(), 1, response.delta().text().size(), stdout);
  } else {
    std::printf("\n");
  }
  std::fflush(stdout);
  if (response.has_completion()) PrintUsage(response.completion());
}

void AnswerPrinter::PrintUsage(const v1::Completion& completion) const {
  const absl::Time now = absl::Now();
  const uint32_t tokens = completion.usage().completion_tokens();
  const double seconds = absl::ToDoubleSeconds(now - started_);
  const double first = absl::ToDoubleSeconds(std::min(first_token_, now) - started_);
  std::string why = "length";
  if (completion.finish_reason() == v1::FINISH_REASON_STOP) {
    why = absl::StrCat("stop at token ", completion.matched_stop_token_id());
  }
  // Not the rate after the first message: messages come merged, so that one may hold many tokens.
  const double rate = seconds > 0.0 ? tokens / seconds : 0.0;
  std::fprintf(stderr,
               "[%u prompt tokens, %u generated in %.2f s, the first after %.2f s; %.1f tokens/s; "
               "%s]\n",
               completion.usage().prompt_tokens(), tokens, seconds, first, rate, why.c_str());
}

}  // namespace intermix
