package config

import (
	"errors"
	"fmt"
	"strings"
)

// FieldError is one fault of a configuration.
type FieldError struct {
	Path  string // of the field, as in masters[1].address; empty: the whole file
	Value string // as it was written or would be; empty when there is none
	At    string // file:line where the field or its nearest parent was written; empty when it came from no file
	Err   error  // what is wrong with it
}

// Error is "file:line: path: value: what is wrong", without the unknown parts.
func (e *FieldError) Error() string {
	var b strings.Builder
	for _, s := range []string{e.At, e.Path} {
		if s != "" {
			b.WriteString(s)
			b.WriteString(": ")
		}
	}
	if e.Value != "" {
		fmt.Fprintf(&b, "%q: ", e.Value)
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// FieldErrors lists the faults that err was joined from, in their order. A
// part of err that is no *FieldError is not listed.
func FieldErrors(err error) []*FieldError {
	var all []*FieldError
	var walk func(error)
	walk = func(err error) {
		var fe *FieldError
		switch e := err.(type) { //nolint:errorlint // the tree is walked by hand, to keep every leaf
		case nil:
		case *FieldError:
			all = append(all, e)
		case interface{ Unwrap() []error }:
			for _, sub := range e.Unwrap() {
				walk(sub)
			}
		default:
			if next := errors.Unwrap(err); next != nil {
				walk(next)
			} else if errors.As(err, &fe) {
				all = append(all, fe)
			}
		}
	}
	walk(err)
	return all
}

// joinFields makes one error of many faults; nil of none.
func joinFields(faults []*FieldError) error {
	errs := make([]error, len(faults))
	for i, f := range faults {
		errs[i] = f
	}
	return errors.Join(errs...)
}
