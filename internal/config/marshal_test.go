package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// full is a Cluster that has a value in every optional field too.
func full(t *testing.T) *Cluster {
	t.Helper()
	c, err := Parse("example", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	c.Name = "123" // must be quoted to stay a text
	c.FrontDoor = FrontDoor{Host: "k8s.example.com", Port: 443, SANs: []string{"true", "10.0.0.1"}}
	c.APIServer.AuthorizationModes = []string{"Node", "ABAC"}
	c.APIServer.ABACPolicyFile = "/etc/hactl/abac: #1"
	c.APIServer.TokenAuthFile = "/etc/hactl/tokens.csv"
	c.APIServer.OIDC = &OIDC{IssuerURL: "https://login.example.com", ClientID: "null", CAFile: "/ca", UsernameClaim: "sub",
		UsernamePrefix: "~", GroupsClaim: "groups", GroupsPrefix: " lead"}
	c.APIServer.ExtraArgs = map[string]string{"v": "2", "profiling": "true", "feature-gates": "A=true,B=false", "empty": ""}
	c.Singletons = append(c.Singletons, Singleton{Name: "report", TTL: 90 * time.Second,
		Command: []string{"/bin/sh", "-c", "echo 'a: b'\n\tsleep 1 # not a comment"}, HealthURL: "http://127.0.0.1:80/healthz"})
	c.Etcd.Quota = 512 << 20
	c.Etcd.Backup = Backup{Every: 36 * time.Hour, Keep: 1, To: []string{"s3://bucket/x?region=eu"}}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMarshalRoundTrips(t *testing.T) {
	for name, c := range map[string]*Cluster{"full": full(t), "discovery": discovered(t)} {
		t.Run(name, func(t *testing.T) {
			data, err := Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Parse("marshalled", data)
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			if !reflect.DeepEqual(got, c) {
				t.Errorf("got  %+v\nwant %+v\n%s", got, c, data)
			}
			again, err := Marshal(got)
			if err != nil || string(again) != string(data) {
				t.Errorf("a second time it differs: %v\n%s", err, again)
			}
		})
	}
}

func discovered(t *testing.T) *Cluster {
	t.Helper()
	c := Default()
	c.Name = "found"
	c.Discovery = &Discovery{Seeds: []string{"10.0.0.1", "seed.example.com:7946", "[fd00::1]:7946"}, Expect: 5}
	return c
}

func TestMarshalKeepsTheNotation(t *testing.T) {
	data, err := Marshal(full(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"quota: 512Mi", "heartbeat: 100ms", "every: 36h", "ttl: 1m30s", `name: "123"`, "address: 10.245.1.11", `v: "2"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %q in:\n%s", want, data)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1": 1, "1000": 1000, "1Ki": 1 << 10, "512Mi": 512 << 20, "8Gi": 8 << 30, "7Ti": 7 << 40, "1025Ki": 1025 << 10} {
		got, err := ParseSize(text)
		if err != nil || int64(got) != want || got.String() != text {
			t.Errorf("ParseSize(%q) = %d (%s), %v; want %d", text, got, got, err, want)
		}
	}
	for _, bad := range []string{"", "Gi", "-1", "+1", "1.5Gi", "8 Gi", "8GB", "8G", "8gi", "0x10", "9223372036854775808", "8388608Ti", "1_000"} {
		if got, err := ParseSize(bad); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", bad, got)
		}
	}
}

func TestDurationsPrintShort(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", time.Second: "1s", time.Minute: "1m", time.Hour: "1h", 90 * time.Minute: "1h30m",
		10*time.Hour + 10*time.Second: "10h0m10s", 100 * time.Millisecond: "100ms", 20 * time.Minute: "20m", -time.Hour: "-1h"} {
		got := formatDuration(d)
		back, err := time.ParseDuration(got)
		if got != want || err != nil || back != d {
			t.Errorf("formatDuration(%v) = %q (%v), want %q", d, got, err, want)
		}
	}
}
