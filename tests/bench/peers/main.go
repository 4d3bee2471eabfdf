// A go-control-plane server for the benchmarks: `peer snapshot|linear ENDPOINTS EVERY_S`.
//
// It does what ads_server.py does, with the caches of go-control-plane as they come: one assignment, every weight of
// which changes every so many seconds, until standard input ends. What it says on standard output is the same, too.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// everybody puts all proxies into one group, as ours does.
type everybody struct{}

func (everybody) ID(*core.Node) string { return "all" }

// assignment has the endpoints of fleets.py; weights differ from step to step.
func assignment(count, step int) *endpoint.ClusterLoadAssignment {
	endpoints := make([]*endpoint.LbEndpoint, count)
	for n := range endpoints {
		address := &core.SocketAddress{
			Address:       fmt.Sprintf("10.%d.%d.%d", n>>16, n>>8&255, n&255),
			PortSpecifier: &core.SocketAddress_PortValue{PortValue: 8000},
		}
		endpoints[n] = &endpoint.LbEndpoint{
			HealthStatus: core.HealthStatus_HEALTHY,
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{
				Address: &core.Address{Address: &core.Address_SocketAddress{SocketAddress: address}},
			}},
			LoadBalancingWeight: wrapperspb.UInt32(uint32(n + 1 + step)),
		}
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: "p",
		Endpoints: []*endpoint.LocalityLbEndpoints{{
			Locality:            &core.Locality{Region: "default"},
			LbEndpoints:         endpoints,
			LoadBalancingWeight: wrapperspb.UInt32(1),
		}},
	}
}

// publisher puts a step in force and answers with the version that clients will see.
type publisher func(step int) (version string, err error)

func snapshots(count int) (cache.Cache, publisher) {
	held := cache.NewSnapshotCache(true, everybody{}, nil)
	return held, func(step int) (string, error) {
		version := strconv.Itoa(step)
		snapshot, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{
			resource.EndpointType: {assignment(count, step)},
		})
		if err != nil {
			return "", err
		}
		return version, held.SetSnapshot(context.Background(), "all", snapshot)
	}
}

func linear(count int) (cache.Cache, publisher) {
	held := cache.NewLinearCache(resource.EndpointType)
	return held, func(step int) (string, error) {
		// The cache counts its updates itself, from 1.
		return strconv.Itoa(step), held.UpdateResource("p", assignment(count, step))
	}
}

func say(document map[string]any) {
	line, err := json.Marshal(document)
	check(err)
	fmt.Println(string(line))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func unix(at time.Time) float64 { return float64(at.UnixNano()) / 1e9 }

func main() {
	count, err := strconv.Atoi(os.Args[2])
	check(err)
	everyS, err := strconv.ParseFloat(os.Args[3], 64)
	check(err)
	held, publish := snapshots(count)
	if os.Args[1] == "linear" {
		held, publish = linear(count)
	}
	_, err = publish(1)
	check(err)
	server := grpc.NewServer(grpc.MaxConcurrentStreams(1_000_000))
	ads := serverv3.NewServer(context.Background(), held, nil)
	discovery.RegisterAggregatedDiscoveryServiceServer(server, ads)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() { check(server.Serve(listener)) }()
	say(map[string]any{"port": listener.Addr().(*net.TCPAddr).Port})
	if everyS > 0 {
		go func() {
			step := 1
			for range time.Tick(time.Duration(everyS * float64(time.Second))) {
				step++
				at := time.Now()
				version, err := publish(step)
				check(err)
				say(map[string]any{"version": version, "at": unix(at), "took_s": time.Since(at).Seconds()})
			}
		}()
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	check(err)
	server.Stop()
}
