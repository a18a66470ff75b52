package dataplane

// queue is a list of connections with one and the same time limit, so the first
// is always the next to expire. A connection is in at most one queue.
type queue struct {
	after      int64 // milliseconds from push to expiry
	head, tail *conn
	len        int
}

func (q *queue) push(c *conn, now int64) {
	c.queue, c.deadline = q, now+q.after
	c.prev, c.next = q.tail, nil
	if q.tail == nil {
		q.head = c
	} else {
		q.tail.next = c
	}
	q.tail = c
	q.len++
}

// leave takes c out of the queue that it is in, if any.
func (c *conn) leave() {
	q := c.queue
	if q == nil {
		return
	}
	if c.prev == nil {
		q.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.queue, c.prev, c.next = nil, nil, nil
	q.len--
}

// expired returns the first connection if its time is over, and takes it out.
func (q *queue) expired(now int64) *conn {
	c := q.head
	if c == nil || c.deadline > now {
		return nil
	}
	c.leave()
	return c
}
