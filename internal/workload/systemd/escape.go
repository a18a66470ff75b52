package systemd

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// quote writes s as one word of a unit file's value: nothing in it is taken for
// a quote, an escape or a specifier. With command also a dollar is itself, as
// ExecStart= needs; elsewhere it has no meaning.
func quote(s string, command bool) (string, error) {
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%q is not UTF-8", s)
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '%':
			b.WriteString("%%")
		case r == '$' && command:
			b.WriteString("$$")
		case unicode.IsControl(r):
			return "", fmt.Errorf("%q has a control character", s)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String(), nil
}

// word quotes s only where that is needed, so that units are good to read.
func word(s string, command bool) (string, error) {
	q, err := quote(s, command)
	if err != nil {
		return "", err
	}
	plain := func(r rune) bool {
		return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_=./:@,+%$?&*[]", r))
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(q, `"`), `"`)
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return bare, nil
	}
	return q, nil
}

// words joins quoted words.
func words(in []string, command bool) (string, error) {
	out := make([]string, 0, len(in))
	for _, s := range in {
		w, err := word(s, command)
		if err != nil {
			return "", err
		}
		out = append(out, w)
	}
	return strings.Join(out, " "), nil
}

// line writes s as the rest of a line of text, such as a description.
func line(s string) (string, error) {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || strings.HasSuffix(s, `\`) {
		return "", fmt.Errorf("%q does not fit into one line", s)
	}
	return strings.ReplaceAll(s, "%", "%%"), nil
}
