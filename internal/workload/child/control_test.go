package child

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hactl/hactl/internal/testwait"
	"github.com/hactl/hactl/internal/workload"
	"github.com/hactl/hactl/internal/workload/workloadtest"
)

func TestProcessesAndSignalByName(t *testing.T) {
	u := notifying(workloadtest.Unit(t, "u", "-ready", "0s", "-child"))
	cfg := configFor(t, u, workloadtest.Unit(t, "other"))
	s, _ := running(t, cfg)
	awaitActive(t, s, "u", "other")
	c := NewClient(cfg.Socket)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(exe)
	var ps []Process
	testwait.For(t, "three processes", workloadtest.Limit, func() error {
		if ps, err = c.Processes(t.Context()); err != nil || len(ps) != 3 {
			return fmt.Errorf("%+v, %w", ps, err)
		}
		return nil
	})
	if ps[0].Unit != "u" || !ps[0].Main || ps[1].Unit != "u" || ps[1].Main || ps[1].PPID != ps[0].PID || ps[2].Unit != "other" {
		t.Errorf("processes %+v", ps)
	}
	for _, p := range ps {
		if p.Name != name || p.State == "" || p.State == "T" {
			t.Errorf("%+v: want the name %s and a state that is not stopped", p, name)
		}
	}

	pids, err := c.SignalProcess(t.Context(), "other", syscall.SIGSTOP) // a unit's name: its main process
	if err != nil || !slices.Equal(pids, []int{ps[2].PID}) {
		t.Errorf("SignalProcess(unit) = %v, %v", pids, err)
	}
	testwait.For(t, "state T", workloadtest.Limit, func() error {
		now, err := c.Processes(t.Context())
		if err != nil || now[2].State != "T" {
			return fmt.Errorf("%+v, %w", now, err)
		}
		return nil
	})
	pids, err = c.SignalProcess(t.Context(), name, syscall.SIGKILL) // a program's name: all of them
	if err != nil || len(pids) != 3 {
		t.Errorf("SignalProcess(program) = %v, %v; want three pids", pids, err)
	}
	for _, p := range ps {
		testwait.For(t, "its end", workloadtest.Limit, func() error { return alive(p.PID) })
	}
	awaitActive(t, s, "u", "other")

	_, err = c.SignalProcess(t.Context(), "nobody", syscall.SIGKILL)
	if !errors.Is(err, ErrNoProcess) || !strings.Contains(err.Error(), "other") || !strings.Contains(err.Error(), name) {
		t.Errorf("SignalProcess(nobody) = %v, want ErrNoProcess and what there is", err)
	}
}

func TestSignalPIDHitsNobodyElse(t *testing.T) {
	self := Process{PID: os.Getpid(), PPID: os.Getppid() + 1, Name: "other"}
	if err := signalPID(self, syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signalPID = %v, want os.ErrProcessDone", err)
	}
	if err := signalPID(Process{PID: 1 << 22, Name: "x"}, syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signalPID of no process = %v, want os.ErrProcessDone", err)
	}
}

func TestShutdownByClient(t *testing.T) {
	cfg := configFor(t, notifying(workloadtest.Unit(t, "u", "-ready", "0s", "-stop-time", "100ms")))
	s, result := running(t, cfg)
	awaitActive(t, s, "u")
	pid := stateOf(t, s, "u").MainPID
	c := NewClient(cfg.Socket)
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := alive(pid); err != nil {
		t.Error(err)
	}
	if err := <-result; err != nil {
		t.Errorf("Run = %v", err)
	}
	for name, err := range map[string]error{
		"Shutdown": c.Shutdown(t.Context()),
		"Start":    c.Start(t.Context(), "u"),
	} {
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), cfg.Socket) {
			t.Errorf("%s afterwards = %v, want ErrUnreachable with the socket", name, err)
		}
	}
	for _, path := range []string{cfg.Socket, cfg.NotifySocket} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left behind", path)
		}
	}
}

func TestControlRefusals(t *testing.T) {
	cfg := configFor(t, workloadtest.Unit(t, "u"))
	s, _ := running(t, cfg)
	awaitActive(t, s, "u")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/nothing", "", 404, ""},
		{"GET", "/v1/units/u/stop", "", 405, ""},
		{"POST", "/v1/units/x/stop", "", 404, "no-unit"},
		{"POST", "/v1/units/u/signal", "", 500, "want a number"},
		{"POST", "/v1/units/u/signal?signal=0", "", 500, "want a number"},
		{"POST", "/v1/units/u/signal?signal=KILL", "", 500, "want a number"},
		{"POST", "/v1/processes/x/signal?signal=9", "", 404, "no-process"},
		{"PUT", "/v1/units", "{", 500, "read units"},
		{"PUT", "/v1/units", `[{"nam":"u"}]`, 500, "nam"},
		{"PUT", "/v1/units", `[{"name":"u"}]`, 500, "exec"},
		{"PUT", "/v1/units", strings.Repeat(" ", maxBody+1), 500, "too large"},
	} {
		rec := httptest.NewRecorder()
		s.handler().ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.want) {
			t.Errorf("%s %s %.20s: %d %s, want %d with %q", c.method, c.path, c.body, rec.Code, rec.Body, c.status, c.want)
		}
	}
	if st := stateOf(t, s, "u"); st.Active != workload.Active || st.Restarts != 0 {
		t.Errorf("afterwards: %+v, want it untouched", st)
	}
}

// A client must make an error of whatever answers on the socket.
func TestClientOnStrangeAnswers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"not JSON":     func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") },
		"empty":        func(http.ResponseWriter, *http.Request) {},
		"plain 500":    func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oops", 500) },
		"unknown code": func(w http.ResponseWriter, _ *http.Request) { answerProblem(w, problem{Error: "strange", Code: "new"}) },
		"cut off":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "s")
			ln, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Second}
			done := make(chan struct{})
			go func() { defer close(done); _ = srv.Serve(ln) }()
			defer func() { _ = srv.Close(); <-done }()
			if _, err := NewClient(path).Units(t.Context()); err == nil {
				t.Error("Units returned no error")
			}
		})
	}
}

func answerProblem(w http.ResponseWriter, p problem) {
	w.WriteHeader(http.StatusTeapot)
	_ = json.NewEncoder(w).Encode(p)
}

func TestClientEndsWithItsContext(t *testing.T) {
	cfg := configFor(t, notifying(workloadtest.Unit(t, "u")))
	running(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := NewClient(cfg.Socket).Start(ctx, "u"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start = %v, want a deadline", err)
	}
}
