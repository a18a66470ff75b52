// Package linear judges the history of a lease.Lock.
//
// Check asks porcupine for an order of all calls, each between its beginning and
// its answer, in which one lock that does one thing at a time would have answered
// just so: a take succeeds only on the very record that its candidate saw, a
// renewal only in its own term, tokens grow, and nobody reads what is over. Early
// looks at the times: nobody takes before the term of the one before was released
// or had run out, counted from the sending of the last renewal that was answered.
//
// What it does not say: whether the work kept to the terms. The logs of the work do.
package linear
