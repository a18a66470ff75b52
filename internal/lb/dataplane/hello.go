package dataplane

// MaxHello is how many bytes of a client are kept at most until a backend's
// first byte. A TLS ClientHello is a few hundred bytes, with post-quantum key
// shares about 1.8 KB.
const MaxHello = 16 << 10

// ordinaryHello is what hardly any ClientHello exceeds.
const ordinaryHello = 4 << 10

// helloVerdict is what the client's first bytes are.
type helloVerdict int

const (
	helloMore   helloVerdict = iota // the beginning of a ClientHello; more must come
	helloWhole                      // a whole ClientHello
	helloTooBig                     // a ClientHello that does not fit into MaxHello
	helloNot                        // not TLS
)

const (
	recordHandshake  = 22
	typeClientHello  = 1
	recordHeaderLen  = 5
	helloHeaderLen   = 4
	maxRecordPayload = 1 << 14 // RFC 8446, 5.1
)

// readHello looks at a client's first bytes. For helloWhole, n is the length of
// the TLS records that carry the ClientHello; bytes behind it are not part of it.
// A ClientHello may be spread over several records (RFC 8446, 5.1).
func readHello(p []byte) (v helloVerdict, n int) {
	var (
		want = -1 // length of the handshake message with its header; -1: not known yet
		got  int  // handshake bytes seen in records before pos
		head [helloHeaderLen]byte
		pos  int
	)
	for {
		rest := p[pos:]
		if len(rest) >= 1 && rest[0] != recordHandshake || len(rest) >= 2 && rest[1] != 3 {
			return helloNot, 0
		}
		if len(rest) < recordHeaderLen {
			return more(pos + recordHeaderLen)
		}
		length := int(rest[3])<<8 | int(rest[4])
		if length == 0 || length > maxRecordPayload {
			return helloNot, 0
		}
		if pos+recordHeaderLen+length > MaxHello { // whatever it holds: said before that comes
			return helloTooBig, 0
		}
		body := rest[recordHeaderLen:min(len(rest), recordHeaderLen+length)]
		if got < helloHeaderLen {
			copied := copy(head[got:], body)
			if got == 0 && copied > 0 && head[0] != typeClientHello {
				return helloNot, 0
			}
			if got+copied == helloHeaderLen {
				want = helloHeaderLen + (int(head[1])<<16 | int(head[2])<<8 | int(head[3]))
				if want > MaxHello {
					return helloTooBig, 0
				}
			}
		}
		if len(body) < length {
			return more(pos + recordHeaderLen + length)
		}
		got += length
		pos += recordHeaderLen + length
		if want >= 0 && got >= want {
			return helloWhole, pos
		}
	}
}

// more asks for more bytes unless need of them cannot be kept.
func more(need int) (helloVerdict, int) {
	if need > MaxHello {
		return helloTooBig, 0
	}
	return helloMore, 0
}
