// RpcServer: where it listens, what health and reflection say, what GetServerInfo tells.
#include "runtime/rpc/server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/runtime/rpc/served_fake.h"

namespace intermix::testing {
namespace {

using ::grpc::health::v1::HealthCheckRequest;
using ::grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A port of 127.0.0.1 that something listens on, as long as this lives.
class TakenPort {
 public:
  TakenPort() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~TakenPort() { close(fd_); }
  int port() const { return port_; }

 private:
  int fd_;
  int port_ = 0;
};

TEST(RpcServerTest, ATakenPortThatWasAskedForIsRefused) {
  const TakenPort taken;
  const auto server = RpcServer::Start({.listen = {.port = taken.port(), .port_given = true}});
  ASSERT_EQ(server.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(server.status().message()),
              HasSubstr("127.0.0.1:" + std::to_string(taken.port())));
}

TEST(RpcServerTest, ATakenDefaultPortMeansAnother) {
  const TakenPort taken;
  const auto server = RpcServer::Start({.listen = {.port = taken.port(), .port_given = false}});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_NE((*server)->address().port, taken.port());
  EXPECT_GT((*server)->address().port, 0);
}

TEST(RpcServerTest, TwoServersDoNotShareAPort) {
  const auto first = RpcServer::Start({.listen = {.port = 0, .port_given = true}});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = RpcServer::Start({.listen = (*first)->address()});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(RpcServerTest, JobIdsDiffer) {
  const auto first = RpcServer::Start({.listen = {.port = 0, .port_given = true}});
  const auto second = RpcServer::Start({.listen = {.port = 0, .port_given = true}});
  EXPECT_NE((*first)->job_id(), (*second)->job_id());
}

grpc::Status Health(const ServedFake& served, const std::string& service,
                    HealthCheckResponse* response) {
  grpc::ClientContext context;
  context.set_deadline(Soon());
  HealthCheckRequest request;
  request.set_service(service);
  return grpc::health::v1::Health::NewStub(served.Channel())->Check(&context, request, response);
}

TEST(RpcServerTest, HealthIsServingFromOpenToDrain) {
  ServedFake served({.open = false});
  for (const std::string service : {"", "intermix.v1.Inference"}) {
    HealthCheckResponse response;
    EXPECT_TRUE(Health(served, service, &response).ok());
    EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING) << service;
  }
  served.Open();
  for (const std::string service : {"", "intermix.v1.Inference"}) {
    HealthCheckResponse response;
    EXPECT_TRUE(Health(served, service, &response).ok());
    EXPECT_EQ(response.status(), HealthCheckResponse::SERVING) << service;
  }
  served.server().Drain();
  HealthCheckResponse response;
  EXPECT_TRUE(Health(served, "", &response).ok());
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
}

TEST(RpcServerTest, AWatchedHealthFlips) {
  ServedFake served({.open = false});
  const auto stub = grpc::health::v1::Health::NewStub(served.Channel());
  grpc::ClientContext context;
  context.set_deadline(Soon());
  const auto reader = stub->Watch(&context, HealthCheckRequest());
  HealthCheckResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  served.Open();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  served.server().Drain();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
}

TEST(RpcServerTest, ReflectionListsTheServices) {
  ServedFake served;
  grpc::GenericStub stub(served.Channel());
  grpc::ClientContext context;
  context.set_deadline(Soon());
  grpc::CompletionQueue queue;
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  call->StartCall(&tag);
  queue.Next(&tag, &ok);
  // ServerReflectionRequest{list_services: ""}: field 7, no bytes.
  const grpc::Slice list_services(std::string("\x3A\x00", 2));
  call->WriteLast(grpc::ByteBuffer(&list_services, 1), grpc::WriteOptions(), &tag);
  queue.Next(&tag, &ok);
  grpc::ByteBuffer response;
  call->Read(&response, &tag);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice whole;
  ASSERT_TRUE(response.DumpToSingleSlice(&whole).ok());
  const std::string bytes(whole.begin(), whole.end());
  for (const char* service :
       {"intermix.v1.Inference", "intermix.v1.Control", "grpc.health.v1.Health"}) {
    EXPECT_THAT(bytes, HasSubstr(service));
  }
  grpc::Status status;
  call->Finish(&status, &tag);
  queue.Next(&tag, &ok);
  EXPECT_TRUE(status.ok());
}

TEST(RpcServerTest, TellsWhatItIsAndDoes) {
  ServedFake served({.open = false});
  const auto stub = served.Control();
  const auto info = [&stub] {
    grpc::ClientContext context;
    context.set_deadline(Soon());
    v1::GetServerInfoResponse response;
    EXPECT_TRUE(stub->GetServerInfo(&context, {}, &response).ok());
    return response;
  };
  EXPECT_FALSE(info().serving());
  EXPECT_FALSE(info().has_model());
  EXPECT_EQ(info().version(), "test");
  served.Open();
  Ask(*served.Inference(), TokenRequest({1, 300, 301}, 7));
  const v1::GetServerInfoResponse busy = info();
  EXPECT_TRUE(busy.serving());
  EXPECT_EQ(busy.model().name(), "fake");
  EXPECT_EQ(busy.engine().prompt_tokens(), 3);
  EXPECT_EQ(busy.engine().generated_tokens(), 7);
  EXPECT_EQ(busy.engine().total_kv_blocks(), 64);
  EXPECT_EQ(busy.engine().max_queue(), 256);
  served.server().Drain();
  EXPECT_FALSE(info().serving());
}

}  // namespace
}  // namespace intermix::testing
