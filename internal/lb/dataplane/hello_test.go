package dataplane

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// records cuts a handshake message into TLS records of size n.
func records(msg []byte, n int) []byte {
	var out []byte
	for len(msg) > 0 {
		k := min(n, len(msg))
		out = append(out, recordHandshake, 3, 1, byte(k>>8), byte(k))
		out, msg = append(out, msg[:k]...), msg[k:]
	}
	return out
}

func handshake(body int) []byte { return helloOf(body)[recordHeaderLen:] }

func realHello(tb testing.TB, cfg *tls.Config) []byte {
	tb.Helper()
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, cfg).Handshake()
		_ = a.Close()
	}()
	buf := make([]byte, MaxHello)
	n, err := b.Read(buf)
	if err != nil {
		tb.Fatal(err)
	}
	_ = b.Close()
	return buf[:n]
}

func TestReadHello(t *testing.T) {
	big := records(handshake(MaxHello), 16000)
	for name, tc := range map[string]struct {
		in   []byte
		want helloVerdict
		n    int
	}{
		"nothing":                {nil, helloMore, 0},
		"first byte":             {testHello[:1], helloMore, 0},
		"header":                 {testHello[:5], helloMore, 0},
		"all but one byte":       {testHello[:len(testHello)-1], helloMore, 0},
		"whole":                  {testHello, helloWhole, len(testHello)},
		"whole and more":         {append(bytes.Clone(testHello), 1, 2, 3), helloWhole, len(testHello)},
		"in small records":       {records(handshake(100), 3), helloWhole, 104 + 35*5},
		"in records, one short":  {records(handshake(100), 50)[:60], helloMore, 0},
		"http":                   {[]byte("GET / HTTP/1.1\r\n"), helloNot, 0},
		"ssh":                    {[]byte("SSH-2.0-x\r\n"), helloNot, 0},
		"alert record":           {[]byte{21, 3, 1, 0, 2, 1, 0}, helloNot, 0},
		"other version":          {[]byte{22, 2}, helloNot, 0},
		"server hello":           {[]byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, helloNot, 0},
		"empty record":           {[]byte{22, 3, 1, 0, 0}, helloNot, 0},
		"record too long":        {[]byte{22, 3, 1, 0x40, 1}, helloNot, 0},
		"hello too big":          {big[:100], helloTooBig, 0},
		"many records, too big":  {records(append([]byte{1, 0, 0x50, 0}, make([]byte, 0x5000)...), 1000), helloTooBig, 0},
		"second record no hello": {append(records(handshake(100)[:50], 50), 23, 3, 3), helloNot, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if v, n := readHello(tc.in); v != tc.want || n != tc.n {
				t.Errorf("got %v %d, want %v %d", v, n, tc.want, tc.n)
			}
		})
	}
}

func TestReadRealHello(t *testing.T) {
	for name, cfg := range map[string]*tls.Config{
		"post-quantum": {ServerName: "kubernetes", NextProtos: []string{"h2", "http/1.1"}},
		"tls 1.2":      {ServerName: "kubernetes", MaxVersion: tls.VersionTLS12},
	} {
		h := realHello(t, cfg)
		if v, n := readHello(h); v != helloWhole || n != len(h) {
			t.Errorf("%s: %v %d of %d bytes", name, v, n, len(h))
		}
		for i := range h {
			if v, _ := readHello(h[:i]); v != helloMore {
				t.Fatalf("%s: %d bytes are %v", name, i, v)
			}
		}
	}
}

// Whatever comes: it ends, it never asks for more than can be kept, what is
// whole stays whole however much follows, and a verdict never changes back.
func FuzzReadHello(f *testing.F) {
	f.Add(testHello, uint16(10))
	f.Add(records(handshake(300), 7), uint16(100))
	f.Add([]byte("GET / HTTP/1.1"), uint16(3))
	f.Add(realHello(f, &tls.Config{ServerName: "x"}), uint16(50))
	f.Fuzz(func(t *testing.T, p []byte, cut uint16) {
		v, n := readHello(p)
		switch {
		case v == helloMore && len(p) >= MaxHello:
			t.Fatalf("asks for more after %d bytes", len(p))
		case v == helloWhole && (n < recordHeaderLen+helloHeaderLen || n > len(p) || n > MaxHello):
			t.Fatalf("whole in %d of %d bytes", n, len(p))
		case v != helloWhole && n != 0:
			t.Fatalf("%v with a length of %d", v, n)
		}
		if v == helloWhole {
			if v2, n2 := readHello(p[:n]); v2 != helloWhole || n2 != n {
				t.Fatalf("alone it is %v %d, not whole %d", v2, n2, n)
			}
		}
		if k := int(cut); k < len(p) {
			if v2, n2 := readHello(p[:k]); v2 != helloMore && (v2 != v || n2 != n) {
				t.Fatalf("%d bytes are %v %d, all are %v %d", k, v2, n2, v, n)
			}
		}
	})
}

// A ClientHello that comes byte by byte, and in many records, is passed on whole.
func TestHelloByteByByte(t *testing.T) {
	p := start(t, Config{Router: &inOrder{targets: []*Target{server(t, "a", echo)}}, Hello: true})
	hello := records(handshake(60), 9)
	c := p.dial(t)
	_ = c.SetNoDelay(true)
	for i := range hello {
		if _, err := c.Write(hello[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, c, len(hello)); got != string(hello) {
		t.Error("the backend got something else")
	}
	_ = c.CloseWrite()
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Error(err)
	}
}
