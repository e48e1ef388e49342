package main

import (
	"context"
	"sort"
	"strings"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

func newPuller(c *check, topic string) rocketmq.PullConsumer {
	p, err := rocketmq.NewPullConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{nameServer}),
		consumer.WithGroupName(topic),
		consumer.WithInstance(instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	)
	c.must(err)
	c.must(p.Subscribe(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}))
	c.must(p.Start())
	return p
}

// poll takes so many messages and acknowledges them.
func poll(c *check, p rocketmq.PullConsumer, count int) []string {
	ctx := context.Background()
	var polled []string
	for end := time.Now().Add(20 * time.Second); len(polled) < count && time.Now().Before(end); {
		request, err := p.Poll(ctx, time.Second)
		if consumer.IsNoNewMsgError(err) {
			continue
		}
		c.must(err)
		for _, m := range request.GetMsgList() {
			polled = append(polled, strings.TrimSpace(m.GetKeys()))
		}
		p.ACK(ctx, request, consumer.ConsumeSuccess)
	}
	sort.Strings(polled)
	return polled
}

func pulls(c *check) {
	c.begin("a pull consumer polls and commits, and another goes on there")
	topic := newTopic(c, "polled", 4)
	p := newProducer(c)
	defer p.Shutdown()
	sendSome(c, p, topic, 0, 60)
	first := newPuller(c, topic)
	c.same("polled", keys(0, 60), poll(c, first, 60))
	c.must(first.Shutdown())
	sendSome(c, p, topic, 60, 100)
	second := newPuller(c, topic)
	c.same("polled by the next one", keys(60, 100), poll(c, second, 40))
	c.must(second.Shutdown())

	c.begin("pulling from a place")
	topic = newTopic(c, "pulled", 1)
	sendSome(c, p, topic, 0, 50)
	puller := newPuller(c, topic)
	defer puller.Shutdown()
	a := newAdmin(c)
	defer a.Close()
	queue := route(a, topic)[0]
	next := int64(20)
	for next < 50 {
		r, err := puller.PullFrom(context.Background(), queue, next, 8)
		c.must(err)
		c.same("status", primitive.PullFound, r.Status)
		for _, m := range r.GetMessageExts() {
			c.same("offset", next, m.QueueOffset)
			next++
		}
		c.same("next offset", next, r.NextBeginOffset)
		c.same("max offset", int64(50), r.MaxOffset)
	}
}
