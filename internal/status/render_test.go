package status

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// states are the pictures that people will see; testdata has each as a table,
// and some in the other formats.
var states = []struct {
	name    string
	masters int
	change  func(*Report)
	formats string // beside table
}{
	{"healthy", 3, func(*Report) {}, "wide json yaml"},
	{"single", 1, func(*Report) {}, ""},
	{"master-lost", 3, func(r *Report) { loseMaster(r, 1) }, "wide json"},
	{"leader-lost", 3, func(r *Report) { loseMaster(r, 0) }, ""},
	{"no-quorum", 3, func(r *Report) { loseMaster(r, 1); loseMaster(r, 2); endQuorum(r) }, "json"},
	{"nothing", 3, func(r *Report) {
		for i := range r.Masters {
			loseMaster(r, i)
		}
		endQuorum(r)
		for i := range r.Singletons {
			r.Singletons[i] = Singleton{Name: r.Singletons[i].Name}
		}
	}, "wide"},
	{"agent-lost-locally", 3, func(r *Report) {
		processes, certs, backends := r.Masters[0].Processes, r.Masters[0].Certificates, r.Balancers[0].Backends
		loseAgent(r, 0)
		r.Unknown = nil
		processes[5] = Process{Name: "hactl-agent", Active: "failed", Since: now.Add(-time.Minute), Restarts: 5, LastExit: "exit status 1"}
		r.Masters[0].Processes, r.Masters[0].Certificates, r.Balancers[0].Backends = processes, certs, backends
		r.Masters[0].ProcessesFrom = "supervisor"
	}, ""},
	{"apiserver-sick", 3, func(r *Report) {
		r.APIServers[1].Ready, r.APIServers[1].Why = No, "HTTP 500: poststarthook/rbac failed"
		r.APIServers[2] = APIServer{Master: "m3", Address: "10.245.1.13:6444", Ready: No, Live: No, Why: "no answer within 1s"}
	}, "wide"},
	{"front-door-dead", 3, func(r *Report) {
		r.Dev, r.DevDir = true, "/tmp/dev"
		r.FrontDoor = &FrontDoor{Address: "127.0.0.1:6443", Serving: No, Why: "connection refused"}
	}, ""},
	{"learner", 3, func(r *Report) {
		r.Etcd.Members[2].Role, r.Etcd.Members[2].Applied, r.Etcd.Members[2].Index = RoleLearner, 40000, 41000
	}, ""},
	{"no-space", 3, func(r *Report) {
		r.Etcd.Members[1].Alarms, r.Etcd.Members[1].DBSize = []string{"NOSPACE"}, 8<<30
	}, ""},
	{"singletons", 3, func(r *Report) {
		r.Singletons[0] = Singleton{Name: "kube-scheduler", Known: Linearizable, Waiting: []string{}}
		r.Singletons[1].Waiting = []string{}
	}, ""},
	{"certificates", 3, func(r *Report) {
		for i := range r.Masters[0].Certificates {
			r.Masters[0].Certificates[i].NotAfter = now.Add(5 * 24 * time.Hour)
		}
		r.Masters[1].Certificates[0].NotAfter = now.Add(20 * 24 * time.Hour)
		r.Masters[2].Certificates[0].NotAfter = now.Add(-time.Hour)
	}, "wide"},
	{"processes", 3, func(r *Report) {
		r.Masters[0].Processes[2] = Process{Name: "hactl-lb", Active: "failed", Restarts: 7, LastExit: "signal: killed", Since: now.Add(-time.Minute)}
		r.Masters[1].Processes[1] = Process{Name: "kube-apiserver", Active: "active", MainPID: 5, Restarts: 4, LastExit: "watchdog", Since: now.Add(-time.Minute)}
		r.Masters[2].Watchdog.Targets[0] = WatchTarget{Name: "kube-apiserver", State: "failing", Held: true, Reason: "budget spent: 5 restarts in 10m"}
	}, ""},
	{"joining", 1, func(r *Report) {
		r.Masters[0].Rendezvous = &Rendezvous{Why: "the token has expired"}
	}, "wide json"},
	{"skew", 3, func(r *Report) { r.Masters[1].Agent.Skew, r.Masters[2].Agent.Version = -1.25, "v0.2.0" }, ""},
}

func TestGolden(t *testing.T) {
	for _, s := range states {
		for _, format := range append([]string{FormatTable}, strings.Fields(s.formats)...) {
			r := healthy(s.masters)
			s.change(r)
			Judge(r)
			var got bytes.Buffer
			if err := Render(&got, r, format); err != nil {
				t.Fatal(err)
			}
			golden(t, s.name+"."+format, got.Bytes())
		}
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update rewrites it after a look):\n%s", path, got)
	}
}

// What was printed can be read back, so scripts in Go can use the types.
func TestJSONAndYAMLReadBack(t *testing.T) {
	for _, s := range states {
		r := healthy(s.masters)
		s.change(r)
		Judge(r)
		var j, y bytes.Buffer
		if err := Render(&j, r, FormatJSON); err != nil {
			t.Fatal(err)
		}
		if err := Render(&y, r, FormatYAML); err != nil {
			t.Fatal(err)
		}
		var fromJSON, fromYAML Report
		if err := json.Unmarshal(j.Bytes(), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(y.Bytes(), &fromYAML); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&fromJSON, r) {
			t.Errorf("%s: JSON reads back differently", s.name)
		}
		if !reflect.DeepEqual(&fromYAML, r) {
			t.Errorf("%s: YAML reads back differently", s.name)
		}
	}
}

func TestRenderRefusesAnUnknownFormat(t *testing.T) {
	var b bytes.Buffer
	err := Render(&b, healthy(1), "xml")
	if err == nil || !strings.Contains(err.Error(), "table, wide, json, yaml") || b.Len() > 0 {
		t.Errorf("Render(xml) = %v, wrote %q", err, b.String())
	}
}

// Nothing that a cluster says may steer the reader's terminal or forge a line.
func TestForeignTextIsPrintable(t *testing.T) {
	r := healthy(3)
	evil := "\x1b[2Jok\nprod is healthy\ta"
	loseEtcd(r, 0)
	r.Etcd.Members[0].Error, r.Masters[0].Processes[0].Status, r.Masters[1].Agent.Version = evil, evil, evil
	r.Unknown = []Unknown{{"m1", "processes", evil}}
	r.FrontDoor = &FrontDoor{Serving: No, Why: evil}
	Judge(r)
	for _, format := range []string{FormatTable, FormatWide} {
		var b bytes.Buffer
		if err := Render(&b, r, format); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "\x1b") || strings.Contains(b.String(), "\nprod is healthy") {
			t.Errorf("%s: %q", format, b.String())
		}
	}
}

func TestSame(t *testing.T) {
	judged := func(change func(*Report)) *Report {
		r := healthy(3)
		change(r)
		Judge(r)
		return r
	}
	base := judged(func(*Report) {})
	quiet := judged(func(r *Report) {
		r.Time = now.Add(time.Second)
		r.Etcd.Members[0].Index += 50
		r.Etcd.Members[0].DBSize += 4096
		r.APIServers[0].Latency = 0.1
		r.Balancers[0].Backends[0].Connections++
		r.Masters[0].Agent.Latency = 0.2
	})
	if !Same(base, quiet) {
		t.Error("a report with other times and numbers is not the same")
	}
	for name, change := range map[string]func(*Report){
		"leader":   func(r *Report) { r.Etcd.Leader = "m2" },
		"term":     func(r *Report) { r.Etcd.Term++ },
		"role":     func(r *Report) { r.Etcd.Members[1].Role = RoleLearner },
		"holder":   func(r *Report) { r.Singletons[0].Holder = "m2" },
		"token":    func(r *Report) { r.Singletons[0].Token++ },
		"pid":      func(r *Report) { r.Masters[0].Processes[0].MainPID++ },
		"restarts": func(r *Report) { r.Masters[0].Processes[0].Restarts++ },
		"backend":  func(r *Report) { r.Balancers[0].Backends[0].State = "x" },
		"ready":    func(r *Report) { r.APIServers[0].Ready = No },
		"agent":    func(r *Report) { loseAgent(r, 0) },
		"watchdog": func(r *Report) { r.Masters[0].Watchdog.Targets[0].State = "failing" },
		"joining":  func(r *Report) { r.Masters[0].Rendezvous = &Rendezvous{Open: true} },
	} {
		if Same(base, judged(change)) {
			t.Errorf("a change of %s is the same", name)
		}
	}
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 90 * time.Second: "90s", 5 * time.Minute: "5m", 90 * time.Minute: "90m", 3 * time.Hour: "3h",
		47 * time.Hour: "47h", 49 * time.Hour: "2d", 400 * 24 * time.Hour: "400d",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1024: "1.0KiB", 24 << 20: "24MiB", 8 << 30: "8.0GiB", 1 << 62: "4.0EiB"} {
		if got := sizeOf(n); got != want {
			t.Errorf("sizeOf(%d) = %s, want %s", n, got, want)
		}
	}
}
