// The flags that describe one request, shared by `generate` and `client generate`, and the printer
// of its answer.
#pragma once

#include <map>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "intermix/v1/inference.pb.h"

namespace intermix {

struct RequestOptions {
  v1::GenerateRequest request;
  std::string prompt_file;
  bool chat = false;
  std::string system;  // of a chat
  bool stream_json = false;
};

// --prompt | --prompt-file | --token-ids, --max-tokens, --temperature, ...; `options` outlives the
// parse. Returns the group of options for the prompt, one of which must be given.
CLI::Option_group* AddRequestOptions(CLI::App& command, RequestOptions& options);

// --max-tokens, --temperature, ... alone; `sampling` outlives the parse.
void AddSamplingOptions(CLI::App& command, v1::SamplingParams* sampling);

// What is left to do after the parse: reads --prompt-file into the request, and makes the text a
// message where --chat is given.  NOT_FOUND naming the file; INVALID_ARGUMENT: nothing to chat.
absl::Status FinishRequest(RequestOptions& options);

// Writes an answer to stdout as it comes, and one line about it to stderr; of several answers each
// one when it is whole. Not thread-safe.
class AnswerPrinter {
 public:
  explicit AnswerPrinter(const RequestOptions& options)
      : as_json_(options.stream_json), several_(options.request.sampling().n() > 1) {}

  void Print(const v1::GenerateResponse& response);

 private:
  void PrintText(const v1::GenerateResponse& response);
  void PrintUsage(const v1::Completion& completion) const;

  const bool as_json_;
  const bool several_;
  std::map<uint32_t, std::string> texts_;  // of several answers, by index
  const absl::Time started_ = absl::Now();
  absl::Time first_token_ = absl::InfiniteFuture();
};

}  // namespace intermix
