//go:build linux

// Command skewed runs a program whose wall clock is off: `skewed -1h PROGRAM ARG…`.
// Hosts of the lab share the kernel's clock, and time namespaces have no wall
// clock. So it patches the one process: its copy of the vDSO, from which it reads
// the time without the kernel, adds the offset. The processes that it starts have
// the right time.
package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "skewed:", err)
		code = 125
	}
	os.Exit(code)
}

func run(args []string) (int, error) {
	if len(args) < 2 {
		return 0, errors.New("usage: skewed OFFSET PROGRAM [ARG…]")
	}
	offset, err := time.ParseDuration(args[0])
	if err != nil {
		return 0, err
	}
	code, err := clockGettime(int32(offset / time.Second))
	if err != nil {
		return 0, err
	}
	runtime.LockOSThread() // only the thread that began to trace may
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if err := patch(cmd.Process.Pid, code); err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return 0, err
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// patch waits for the process to stop at its exec, replaces its clock_gettime, and
// lets it go.
func patch(pid int, code []byte) error {
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return fmt.Errorf("wait for its exec: %w", err)
	}
	if !status.Stopped() {
		return fmt.Errorf("it did not stop at its exec: %v", status)
	}
	base, err := vdso(pid)
	if err != nil {
		return err
	}
	at, err := symbol(pid, base, "__vdso_clock_gettime")
	if err != nil {
		return err
	}
	if _, err := syscall.PtracePokeText(pid, uintptr(at), code); err != nil {
		return fmt.Errorf("write its vDSO: %w", err)
	}
	return syscall.PtraceDetach(pid)
}

// vdso is where the kernel mapped it: AT_SYSINFO_EHDR of the auxiliary vector.
func vdso(pid int) (uint64, error) {
	aux, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return 0, err
	}
	const sysinfoEHDR = 33
	for ; len(aux) >= 16; aux = aux[16:] {
		if binary.NativeEndian.Uint64(aux) == sysinfoEHDR {
			return binary.NativeEndian.Uint64(aux[8:]), nil
		}
	}
	return 0, errors.New("it has no vDSO")
}

func symbol(pid int, base uint64, name string) (uint64, error) {
	image := make([]byte, 4*os.Getpagesize())
	n, err := syscall.PtracePeekText(pid, uintptr(base), image)
	if n < os.Getpagesize() {
		return 0, fmt.Errorf("read its vDSO: %d bytes: %w", n, err)
	}
	file, err := elf.NewFile(bytes.NewReader(image[:n]))
	if err != nil {
		return 0, fmt.Errorf("its vDSO: %w", err)
	}
	symbols, err := file.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("its vDSO: %w", err)
	}
	for _, s := range symbols {
		if s.Name == name {
			return base + s.Value, nil
		}
	}
	return 0, fmt.Errorf("its vDSO has no %s", name)
}

// clockGettime is the function in machine code: the system call, and the offset
// added to the wall clock's seconds.
func clockGettime(seconds int32) ([]byte, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("not written for %s", runtime.GOARCH)
	}
	code := []byte{
		0xb8, 228, 0, 0, 0, // mov eax, SYS_clock_gettime
		0x0f, 0x05, // syscall
		0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
		0x75, 0x07, // jne over the next
		0x48, 0x81, 0x06, 0, 0, 0, 0, // add qword ptr [rsi], seconds
		0xc3, // ret
	}
	binary.LittleEndian.PutUint32(code[14:], uint32(seconds)) //nolint:gosec // two's complement
	return code, nil
}
