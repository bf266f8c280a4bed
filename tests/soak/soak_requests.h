// What the soak asks for: a few dozen distinct requests, the same in every run, and what a client
// sees of an answer, in a form that can be compared with ==.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "intermix/v1/inference.grpc.pb.h"

namespace intermix {

// Prompts of 1 to about 700 tokens, some of which begin alike; every sampling option is in some.
std::vector<v1::GenerateRequest> SoakRequests();

// Requests that must be refused with INVALID_ARGUMENT.
std::vector<v1::GenerateRequest> BadRequests();

struct SoakAnswer {
  struct Choice {
    std::vector<uint32_t> tokens;
    std::string text;
    std::string logprobs;  // serialised, so floats are compared bit for bit
    std::string end;       // the serialised Completion; empty: none came

    bool operator==(const Choice&) const = default;
  };
  std::map<uint32_t, Choice> choices;
  grpc::Status status;

  // Adds a message of the stream.
  void Take(const v1::GenerateResponse& response);
  // Whether all of it is also in `whole`, in the same place.
  bool IsBeginningOf(const SoakAnswer& whole) const;
};

}  // namespace intermix
