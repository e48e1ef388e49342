package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// told is what a membership change may take: without being told of it, clients look only every 20 seconds.
const told = 10 * time.Second

func consumes(c *check) {
	c.begin("tags filter")
	topic := newTopic(c, "tags", 4)
	p := newProducer(c)
	defer p.Shutdown()
	// "Aa" and "BB" have the same hash: the broker lets both pass, the client must tell them apart.
	tags := []string{"A", "B", "C", "Aa", "BB"}
	for number := 0; number < 50; number++ {
		m := message(topic, number).WithTag(tags[number%len(tags)])
		_, err := p.SendSync(context.Background(), m)
		c.must(err)
	}
	some := &group{}
	leave := some.join(c, "one", topic, "A || C || Aa")
	c.within(20*time.Second, func() bool { return len(some.keys("")) >= 30 }, "only %v arrive",
		func() interface{} { return len(some.keys("")) })
	leave()
	c.same("messages", 30, len(some.seen()))
	for _, d := range some.seen() {
		c.that(d.tags == "A" || d.tags == "C" || d.tags == "Aa", "tag %s", d.tags)
	}

	c.begin("two consumers of a group share its queues, and one takes over from another")
	topic = newTopic(c, "shared", 8)
	f := newFlow(c, topic)
	g := &group{}
	defer g.join(c, "first", topic, "*")()
	g.awaitShares(c, told, 8, "first")
	leave = g.join(c, "second", topic, "*")
	g.awaitShares(c, told, 4, "first", "second")
	leave()
	g.awaitShares(c, told, 8, "first")
	f.end()
	c.same("sends that failed", int32(0), f.failed)
	c.within(20*time.Second, func() bool { return f.missing(g.keys("")) == 0 }, "%v are missing",
		func() interface{} { return f.missing(g.keys("")) })
}

// broadcast gives every consumer everything.
func broadcast(c *check) {
	c.begin("broadcasting: every consumer receives everything, and keeps its own offsets")
	topic := newTopic(c, "broadcast", 4)
	p := newProducer(c)
	defer p.Shutdown()
	sendSome(c, p, topic, 0, 40)
	g := &group{}
	names := []string{instance(), instance()}
	join := func(name string) func() {
		return g.join(c, name, topic, "*", consumer.WithConsumerModel(consumer.BroadCasting), consumer.WithInstance(name))
	}
	first, second := join(names[0]), join(names[1])
	for _, name := range names {
		name := name
		c.within(20*time.Second, func() bool { return len(g.keys(name)) == 40 }, "%v has %v",
			func() interface{} { return name }, func() interface{} { return len(g.keys(name)) })
	}
	first()
	second()
	files, err := filepath.Glob(filepath.Join(os.Getenv("HOME"), ".rocketmq_client_go", topic, "*", "offset.json"))
	c.must(err)
	c.same("offset files", 2, len(files))
}

// orderly locks every queue before it consumes it.
func orderly(c *check) {
	c.begin("orderly consumers: each queue in its order, and with one at a time")
	topic := newTopic(c, "orderly", 8)
	f := newFlow(c, topic)
	g := &group{}
	// This client never gives back the lock of a queue that another member shall have: whoever comes later gets it when the
	// lock has run out, after a minute. So they take queues only when both are there, and one of them leaves.
	both := false
	together := func(group, self string, queues []*primitive.MessageQueue, members []string) []*primitive.MessageQueue {
		if len(members) == 2 {
			both = true
		}
		if !both {
			return nil
		}
		return consumer.AllocateByAveragely(group, self, queues, members)
	}
	options := []consumer.Option{consumer.WithConsumerOrder(true), consumer.WithStrategy(together)}
	leave := g.join(c, "first", topic, "*", options...)
	defer g.join(c, "second", topic, "*", options...)()
	g.awaitShares(c, told, 4, "first", "second")
	leave()
	g.awaitShares(c, told, 8, "second")
	f.end()
	c.same("sends that failed", int32(0), f.failed)
	c.within(20*time.Second, func() bool { return f.missing(g.keys("")) == 0 }, "%v are missing",
		func() interface{} { return f.missing(g.keys("")) })
	next, before, changes := map[int]int64{}, map[int]delivery{}, map[int]int{}
	for _, d := range g.seen() {
		c.that(d.offset <= next[d.queue], "queue %d: %d before %d", d.queue, d.offset, next[d.queue])
		if d.offset == next[d.queue] {
			next[d.queue]++
		}
		if last, any := before[d.queue]; any {
			c.that(!d.begin.Before(last.end), "queue %d: %s began %d while %s was at %d", d.queue, d.member, d.offset,
				last.member, last.offset)
			if last.member != d.member {
				changes[d.queue]++
			}
		}
		before[d.queue] = d
	}
	c.same("end of every queue", f.ends, next)
	for queue, times := range changes {
		c.that(times <= 1, "queue %d changed hands %d times", queue, times)
	}
}
