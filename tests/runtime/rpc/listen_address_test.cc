// ListenAddress: what --listen may say.
#include "runtime/rpc/listen_address.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace intermix {
namespace {

using ::testing::HasSubstr;

struct Good {
  std::string text;
  std::string host;
  int port;
  bool port_given;
};

TEST(ListenAddressTest, ReadsAddresses) {
  const int def = ListenAddress::kDefaultPort;
  for (const Good& good : {Good{"", "127.0.0.1", def, false}, Good{":80", "127.0.0.1", 80, true},
                           Good{"0.0.0.0", "0.0.0.0", def, false},
                           Good{"node1:0", "node1", 0, true}, Good{"[::1]:5", "::1", 5, true},
                           Good{"[::1]", "::1", def, false}, Good{"::1", "::1", def, false}}) {
    const auto address = ListenAddress::Parse(good.text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->host, good.host) << good.text;
    EXPECT_EQ(address->port, good.port) << good.text;
    EXPECT_EQ(address->port_given, good.port_given) << good.text;
  }
}

TEST(ListenAddressTest, RefusesOthers) {
  for (const std::string bad : {"h:", "h:x", "h:-1", "h:65536", "[::1", "[::1]5", "h:5 "}) {
    const auto address = ListenAddress::Parse(bad);
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(address.status().message()), HasSubstr(bad));
  }
}

TEST(ListenAddressTest, WritesThemForGrpc) {
  EXPECT_EQ((ListenAddress{.host = "127.0.0.1", .port = 7}).ToString(), "127.0.0.1:7");
  EXPECT_EQ((ListenAddress{.host = "::1", .port = 7}).ToString(), "[::1]:7");
}

TEST(ListenAddressTest, KnowsWhatOnlyThisMachineCanReach) {
  EXPECT_TRUE((ListenAddress{.host = "127.0.0.1"}).loopback());
  EXPECT_TRUE((ListenAddress{.host = "127.3.2.1"}).loopback());
  EXPECT_TRUE((ListenAddress{.host = "localhost"}).loopback());
  EXPECT_TRUE((ListenAddress{.host = "::1"}).loopback());
  EXPECT_FALSE((ListenAddress{.host = "0.0.0.0"}).loopback());
  EXPECT_FALSE((ListenAddress{.host = "::"}).loopback());
  EXPECT_FALSE((ListenAddress{.host = "192.0.2.1"}).loopback());
}

TEST(ListenAddressTest, SaysWhyItCannotListen) {
  EXPECT_TRUE(TryListen({.port = 0}).ok());
  EXPECT_EQ(TryListen({.host = "192.0.2.1", .port = 0}).code(),  // a documentation address
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace intermix
