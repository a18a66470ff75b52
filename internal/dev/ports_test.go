package dev

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestCheckFreeNamesWhoHasThePort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	err = checkFree([]string{addr})
	if err == nil {
		t.Fatal("no error for a taken port")
	}
	for _, want := range []string{addr, fmt.Sprintf("process %d", os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	ln.Close()
	if err := checkFree([]string{addr}); err != nil {
		t.Errorf("after closing: %v", err)
	}
}

func TestCheckFreeSeesAWildcardListener(t *testing.T) {
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	err = checkFree([]string{"127.0.0.1:" + port})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("err = %v, want one that names process %d", err, os.Getpid())
	}
}
