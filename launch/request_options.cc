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

// An option that sets a field of the request's sampling parameters.
template <typename T>
void AddField(CLI::App& command, v1::SamplingParams* sampling, const char* name,
              void (v1::SamplingParams::*set)(T), const char* help) {
  command.add_option_function<T>(
      name, [sampling, set](T value) { (sampling->*set)(value); }, help);
}

}  // namespace

void AddSamplingOptions(CLI::App& command, v1::SamplingParams* sampling) {
  using Params = v1::SamplingParams;
  AddField(command, sampling, "--max-tokens", &Params::set_max_tokens,
           "Tokens to generate at most (default 128)");
  AddField(command, sampling, "--min-tokens", &Params::set_min_tokens,
           "Tokens to generate before anything may end the answer");
  AddField(command, sampling, "--temperature", &Params::set_temperature,
           "0 takes the likeliest token (default)");
  AddField(command, sampling, "--top-k", &Params::set_top_k,
           "Sample from the k likeliest tokens (0: all)");
  AddField(command, sampling, "--top-p", &Params::set_top_p,
           "Sample from the likeliest tokens that reach this probability together");
  AddField(command, sampling, "--min-p", &Params::set_min_p,
           "Sample from tokens with this part of the likeliest one's probability");
  AddField(command, sampling, "--repetition-penalty", &Params::set_repetition_penalty,
           "Above 1: avoid tokens of prompt and answer");
  AddField(command, sampling, "--presence-penalty", &Params::set_presence_penalty,
           "Above 0: avoid tokens of the answer");
  AddField(command, sampling, "--frequency-penalty", &Params::set_frequency_penalty,
           "Above 0: avoid the answer's frequent tokens");
  AddField(command, sampling, "--seed", &Params::set_seed,
           "Same seed, same tokens (default: drawn)");
  AddField(command, sampling, "--n", &Params::set_n, "Answers to one prompt (default 1)");
  AddField(command, sampling, "--logprobs", &Params::set_logprobs,
           "Log probabilities of each token and of this many others (with --stream-json)");
  command.add_flag_callback(
      "--ignore-eos", [sampling] { sampling->set_ignore_eos(true); },
      "Generate past the end of the text");
  command.add_option_function<std::vector<std::string>>(
      "--stop",
      [sampling](const std::vector<std::string>& stops) {
        for (const std::string& stop : stops) sampling->add_stop(stop);
      },
      "Texts that end the answer");
  command.add_option_function<std::vector<uint32_t>>(
      "--stop-token-ids",
      [sampling](const std::vector<uint32_t>& ids) {
        sampling->mutable_stop_token_ids()->Add(ids.begin(), ids.end());
      },
      "Further tokens that end the answer");
}

CLI::Option_group* AddRequestOptions(CLI::App& command, RequestOptions& options) {
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
  CLI::Option* chat = command.add_flag(
      "--chat", options.chat, "The text is a user's message, to be put as the model's chats are");
  command.add_option("--system", options.system, "The system's message before it")->needs(chat);
  command.add_option_function<int32_t>(
      "--priority", [request](int32_t priority) { request->set_priority(priority); },
      "Higher ones go first (default 0)");
  command.add_option_function<std::string>(
      "--cache-salt", [request](const std::string& salt) { request->set_cache_salt(salt); },
      "Share cached prefixes with requests of the same salt only");
  AddSamplingOptions(command, request->mutable_sampling());
  command.add_flag("--stream-json", options.stream_json, "Print one JSON object for each message");
  return prompt;
}

absl::Status FinishRequest(RequestOptions& options) {
  if (!options.prompt_file.empty()) {
    std::ifstream file;
    const bool from_stdin = options.prompt_file == "-";
    if (!from_stdin) file.open(options.prompt_file, std::ios::binary);
    std::istream& in = from_stdin ? std::cin : file;
    if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", options.prompt_file));
    options.request.set_text(std::string(std::istreambuf_iterator<char>(in), {}));
  }
  if (!options.chat) return absl::OkStatus();
  if (!options.request.has_text()) {
    return absl::InvalidArgumentError("--chat needs --prompt or --prompt-file");
  }
  const std::string text = options.request.text();
  v1::Chat* chat = options.request.mutable_chat();  // in the text's place
  const auto add = [chat](const char* role, const std::string& content) {
    v1::ChatMessage* message = chat->add_messages();
    message->set_role(role);
    message->set_content(content);
  };
  if (!options.system.empty()) add("system", options.system);
  add("user", text);
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
  } else {
    PrintText(response);
  }
  std::fflush(stdout);
  if (response.has_completion()) PrintUsage(response.completion());
}

void AnswerPrinter::PrintText(const v1::GenerateResponse& response) {
  if (!response.has_delta()) {
    const uint32_t index = response.completion().index();
    if (several_) std::printf("[%u] %s", index, texts_[index].c_str());
    std::printf("\n");
  } else if (several_) {
    texts_[response.delta().index()] += response.delta().text();
  } else {
    std::fwrite(response.delta().text().data(), 1, response.delta().text().size(), stdout);
  }
}

void AnswerPrinter::PrintUsage(const v1::Completion& completion) const {
  const absl::Time now = absl::Now();
  const uint32_t tokens = completion.usage().completion_tokens();
  const double seconds = absl::ToDoubleSeconds(now - started_);
  const double first = absl::ToDoubleSeconds(std::min(first_token_, now) - started_);
  std::string why = "length";
  if (completion.finish_reason() == v1::FINISH_REASON_STOP) {
    why = completion.matched_stop_case() == v1::Completion::kMatchedStopText
              ? absl::StrCat("stop at \"", completion.matched_stop_text(), "\"")
              : absl::StrCat("stop at token ", completion.matched_stop_token_id());
  }
  // Not the rate after the first message: messages come merged, so that one may hold many tokens.
  const double rate = seconds > 0.0 ? tokens / seconds : 0.0;
  std::fprintf(stderr,
               "[%u prompt tokens, %u generated in %.2f s, the first after %.2f s; %.1f tokens/s; "
               "%s]\n",
               completion.usage().prompt_tokens(), tokens, seconds, first, rate, why.c_str());
}

}  // namespace intermix
