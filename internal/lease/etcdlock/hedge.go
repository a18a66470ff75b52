package etcdlock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// answer is what one endpoint said.
type answer[T any] struct {
	ep  int
	v   T
	err error
}

// ask calls f for the preferred endpoint, and for each further one when the one
// before has failed or has not answered for the hedge time. The first good answer
// wins and ends the others. With retry it starts over until ctx ends, unless the
// error is one that waiting does not mend. f must be harmless when done twice.
func ask[T any](ctx context.Context, c *Client, retry bool, f func(context.Context, *endpoint) (T, error)) (T, error) {
	c.connect()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		v, err := askOnce(ctx, c, f)
		if err == nil || !retry || hopeless(err) || ctx.Err() != nil {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(c.hedge / 2):
		}
	}
}

func askOnce[T any](ctx context.Context, c *Client, f func(context.Context, *endpoint) (T, error)) (T, error) {
	n := len(c.endpoints)
	first := int(c.preferred.Load())
	answers := make(chan answer[T], n)
	launched := 0
	launch := func() {
		i := (first + launched) % n
		launched++
		go func() {
			v, err := f(ctx, c.endpoints[i])
			answers <- answer[T]{i, v, err}
		}()
	}
	launch()
	timer := time.NewTimer(c.hedge)
	defer timer.Stop()
	var errs []error
	for {
		select {
		case a := <-answers:
			if a.err == nil {
				if int32(a.ep) != c.preferred.Swap(int32(a.ep)) {
					c.log.Info("another endpoint answers now", "backend", c.endpoints[a.ep].name)
				}
				return a.v, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", c.endpoints[a.ep].name, plain(a.err)))
			if len(errs) == n {
				return a.v, errors.Join(errs...)
			}
			if launched < n {
				launch()
			}
		case <-timer.C:
			if launched < n {
				launch()
				timer.Reset(c.hedge)
			}
		case <-ctx.Done():
			var zero T
			errs = append(errs, fmt.Errorf("no answer from %d of %d endpoints: %w", launched-len(errs), n, context.Cause(ctx)))
			return zero, errors.Join(errs...)
		}
	}
}

// hopeless reports an error that another try will not mend.
func hopeless(err error) bool {
	return says(err, codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented, codes.ResourceExhausted, codes.NotFound)
}

// leaseLost reports that a write's lease had expired.
func leaseLost(err error) bool { return says(err, codes.NotFound) }

// says reports whether any endpoint answered with one of the codes.
func says(err error, wanted ...codes.Code) bool {
	errs := []error{err}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		errs = joined.Unwrap()
	}
	return slices.ContainsFunc(errs, func(e error) bool { return slices.Contains(wanted, status.Code(e)) })
}

// statusError says a gRPC error in its server's or transport's own words.
type statusError struct {
	msg string
	err error
}

func (e *statusError) Error() string { return e.msg }
func (e *statusError) Unwrap() error { return e.err }

// plain drops gRPC's frame around a message.
func plain(err error) error {
	if s, ok := status.FromError(err); ok && s.Message() != "" {
		return &statusError{msg: s.Message(), err: err}
	}
	return err
}
