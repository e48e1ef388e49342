package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func topics(c *check) {
	c.begin("topics are created and deleted")
	topic := newTopic(c, "made", 6)
	a := newAdmin(c)
	defer a.Close()
	listed := func() bool {
		list, err := a.FetchAllTopicList(context.Background())
		c.must(err)
		for _, known := range list.TopicList {
			if known == topic {
				return true
			}
		}
		return false
	}
	c.that(listed(), "the new topic is not listed")
	c.must(a.DeleteTopic(context.Background(), admin.WithTopicDelete(topic), admin.WithBrokerAddrDelete(broker)))
	c.within(10*time.Second, func() bool { return !listed() }, "the topic is still listed after 10 s")
	// The one that has deleted it remembers its route.
	other := newAdmin(c)
	defer other.Close()
	c.same("route", 0, len(route(other, topic)))
}

// result checks every field.
func result(c *check, topic string, queues int, r *primitive.SendResult, err error) {
	c.must(err)
	c.same("status", primitive.SendOK, r.Status)
	c.same("topic", topic, r.MessageQueue.Topic)
	c.that(r.MessageQueue.QueueId >= 0 && r.MessageQueue.QueueId < queues, "queue %d", r.MessageQueue.QueueId)
	c.that(r.QueueOffset >= 0, "queue offset %d", r.QueueOffset)
	c.that(len(r.MsgID) == 32, "message id %q", r.MsgID)
	c.that(len(r.OffsetMsgID) == 32, "offset message id %q", r.OffsetMsgID)
	c.same("region", "DefaultRegion", r.RegionID)
}

func sends(c *check) {
	const queues = 4
	ctx := context.Background()
	topic := newTopic(c, "sends", queues)
	p := newProducer(c)
	defer p.Shutdown()

	c.begin("synchronous sends, every field of the result")
	next := map[int]int64{}
	for number := 0; number < 40; number++ {
		r, err := p.SendSync(ctx, message(topic, number))
		result(c, topic, queues, r, err)
		c.same("queue offset", next[r.MessageQueue.QueueId], r.QueueOffset)
		next[r.MessageQueue.QueueId]++
	}
	c.same("queues used", queues, len(next))

	c.begin("asynchronous sends")
	answers := make(chan string, 200)
	for number := 40; number < 240; number++ {
		c.must(p.SendAsync(ctx, func(_ context.Context, r *primitive.SendResult, err error) {
			if err != nil {
				c.that(false, "a send failed: %v", err)
				answers <- ""
				return
			}
			result(c, topic, queues, r, err)
			answers <- fmt.Sprint(r.MessageQueue.QueueId, " ", r.QueueOffset)
		}, message(topic, number)))
	}
	places := map[string]bool{}
	for patience := time.After(30 * time.Second); len(places) < 200; {
		select {
		case place := <-answers:
			c.that(!places[place], "two messages at %q", place)
			places[place] = true
			continue
		case <-patience:
		}
		c.that(false, "%d answers after 30 s", len(places))
		break
	}

	c.begin("batches")
	var batch []*primitive.Message
	for number := 240; number < 260; number++ {
		batch = append(batch, message(topic, number))
	}
	r, err := p.SendSync(ctx, batch...)
	c.must(err)
	c.same("status", primitive.SendOK, r.Status)
	c.same("places", len(batch), len(strings.Split(r.OffsetMsgID, ",")))

	c.begin("oneway sends, and everything sent arrives once")
	for number := 260; number < 280; number++ {
		c.must(p.SendOneWay(ctx, message(topic, number)))
	}
	everything := &group{}
	leave := everything.join(c, "all", topic, "*")
	c.within(30*time.Second, func() bool { return len(everything.keys("")) == 280 },
		"%v keys arrived", func() interface{} { return len(everything.keys("")) })
	c.same("keys", keys(0, 280), everything.keys(""))
	seen := everything.seen()
	c.same("deliveries", 280, len(seen))
	for _, d := range seen {
		c.same("body of "+d.key, strings.Replace(d.key, "key-", "body ", 1), d.body)
	}
	leave()

	inOrder(c)
	longBody(c)
}

// inOrder sends messages of one sharding key to one queue.
func inOrder(c *check) {
	c.begin("a selector keeps the messages of a sharding key in one queue, in order")
	topic := newTopic(c, "sharded", 4)
	p := newProducer(c, producer.WithQueueSelector(producer.NewHashQueueSelector()))
	defer p.Shutdown()
	queueOf, last := map[string]int{}, map[string]int64{}
	used := map[int]bool{}
	for number := 0; number < 60; number++ {
		shard := fmt.Sprint("shard-", number%12)
		r, err := p.SendSync(context.Background(), message(topic, number).WithShardingKey(shard))
		result(c, topic, 4, r, err)
		if queue, known := queueOf[shard]; known {
			c.same("queue of "+shard, queue, r.MessageQueue.QueueId)
			c.that(r.QueueOffset > last[shard], "offset %d behind %d", r.QueueOffset, last[shard])
		}
		queueOf[shard], last[shard] = r.MessageQueue.QueueId, r.QueueOffset
		used[r.MessageQueue.QueueId] = true
	}
	c.that(len(used) > 1, "all keys in one queue")
}

// longBody is long enough to be compressed.
func longBody(c *check) {
	c.begin("a compressed body arrives unchanged")
	topic := newTopic(c, "long", 1)
	p := newProducer(c)
	defer p.Shutdown()
	body := strings.Repeat("a long body ", 10_000)
	_, err := p.SendSync(context.Background(), primitive.NewMessage(topic, []byte(body)).WithKeys([]string{"long"}))
	c.must(err)
	g := &group{}
	defer g.join(c, "one", topic, "*")()
	c.within(20*time.Second, func() bool { return len(g.seen()) == 1 }, "nothing arrives")
	if seen := g.seen(); len(seen) == 1 {
		c.that(seen[0].body == body, "the body is another, of %d bytes", len(seen[0].body))
	}
}
