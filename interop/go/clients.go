package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

func newAdmin(c *check) admin.Admin {
	a, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver([]string{nameServer})))
	c.must(err)
	return a
}

// newTopic makes a topic that clients can see.
func newTopic(c *check, what string, queues int) string {
	topic := what + "-" + run
	a := newAdmin(c)
	defer a.Close()
	c.must(a.CreateTopic(context.Background(), admin.WithTopicCreate(topic), admin.WithBrokerAddrCreate(broker),
		admin.WithReadQueueNums(queues), admin.WithWriteQueueNums(queues)))
	c.within(10*time.Second, func() bool { return len(route(a, topic)) == queues },
		"the route of a new topic has %v", func() interface{} { return route(a, topic) })
	return topic
}

func route(a admin.Admin, topic string) []*primitive.MessageQueue {
	queues, err := a.FetchPublishMessageQueues(context.Background(), topic)
	if err != nil {
		return nil
	}
	return queues
}

func newProducer(c *check, options ...producer.Option) rocketmq.Producer {
	name := instance()
	options = append([]producer.Option{
		producer.WithNameServer(primitive.NamesrvAddr{nameServer}),
		producer.WithGroupName("producers-" + name),
		producer.WithInstanceName(name),
		producer.WithSendMsgTimeout(5 * time.Second),
	}, options...)
	p, err := rocketmq.NewProducer(options...)
	c.must(err)
	c.must(p.Start())
	return p
}

func message(topic string, number int) *primitive.Message {
	m := primitive.NewMessage(topic, []byte(fmt.Sprintf("body %d", number)))
	return m.WithTag("tag").WithKeys([]string{key(number)})
}

func key(number int) string {
	return fmt.Sprintf("key-%d", number)
}

// keys are those of the messages from one number up to another.
func keys(from, to int) []string {
	var all []string
	for number := from; number < to; number++ {
		all = append(all, key(number))
	}
	sort.Strings(all)
	return all
}

func sendSome(c *check, p rocketmq.Producer, topic string, from, to int) {
	for number := from; number < to; number++ {
		result, err := p.SendSync(context.Background(), message(topic, number))
		c.must(err)
		c.same("status", primitive.SendOK, result.Status)
	}
}

type delivery struct {
	member     string
	queue      int
	offset     int64
	key, tags  string
	body       string
	begin, end time.Time
}

// group is what its members have received.
type group struct {
	mutex   sync.Mutex
	all     []delivery
	leaving sync.Map
}

func (g *group) take(member string, m *primitive.MessageExt, begin time.Time) {
	d := delivery{member, m.Queue.QueueId, m.QueueOffset, strings.TrimSpace(m.GetKeys()), m.GetTags(), string(m.Body), begin,
		time.Now()}
	g.mutex.Lock()
	g.all = append(g.all, d)
	g.mutex.Unlock()
}

// seen is everything in the order in which it began.
func (g *group) seen() []delivery {
	g.mutex.Lock()
	seen := append([]delivery(nil), g.all...)
	g.mutex.Unlock()
	sort.SliceStable(seen, func(a, b int) bool { return seen[a].begin.Before(seen[b].begin) })
	return seen
}

// keys are the different ones, of one member or of all.
func (g *group) keys(member string) []string {
	different := map[string]bool{}
	for _, d := range g.seen() {
		if member == "" || d.member == member {
			different[d.key] = true
		}
	}
	all := make([]string, 0, len(different))
	for key := range different {
		all = append(all, key)
	}
	sort.Strings(all)
	return all
}

// owned is how many deliveries in a row make a member the owner of a queue.
const owned = 5

// owners is how many queues each member was the only one to receive from of late, since then.
func (g *group) owners(since time.Time) map[string]int {
	last, inARow := map[int]string{}, map[int]int{}
	for _, d := range g.seen() {
		if !d.begin.After(since) {
			continue
		}
		if last[d.queue] != d.member {
			inARow[d.queue] = 0
		}
		last[d.queue] = d.member
		inARow[d.queue]++
	}
	owners := map[string]int{}
	for queue, member := range last {
		if inARow[queue] >= owned {
			owners[member]++
		}
	}
	return owners
}

// awaitShares waits until each of these members has as many queues, judged by deliveries from now on only.
func (g *group) awaitShares(c *check, limit time.Duration, each int, members ...string) {
	since := time.Now()
	c.within(limit, func() bool {
		owners := g.owners(since)
		for _, member := range members {
			if owners[member] != each {
				return false
			}
		}
		return len(owners) == len(members)
	}, "queues by member are %v", func() interface{} { return g.owners(since) })
}

// join lets a push consumer take part; it leaves by the function that is returned.
func (g *group) join(c *check, member, topic, tags string, options ...consumer.Option) func() {
	options = append([]consumer.Option{
		consumer.WithNameServer(primitive.NamesrvAddr{nameServer}),
		consumer.WithGroupName(topic),
		consumer.WithInstance(instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, options...)
	pc, err := rocketmq.NewPushConsumer(options...)
	c.must(err)
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: tags}
	c.must(pc.Subscribe(topic, selector, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		// A client that shuts down gives its locks back while its goroutines still work.
		if _, leaving := g.leaving.Load(member); leaving {
			return consumer.SuspendCurrentQueueAMoment, nil
		}
		for _, m := range messages {
			begin := time.Now()
			// Long enough for another member to be caught at the same queue.
			time.Sleep(time.Millisecond)
			g.take(member, m, begin)
		}
		return consumer.ConsumeSuccess, nil
	}))
	c.must(pc.Start())
	return func() {
		g.leaving.Store(member, true)
		c.must(pc.Shutdown())
	}
}

// flow is messages that keep coming until it is stopped; it knows which were acknowledged, and where they lie.
type flow struct {
	mutex  sync.Mutex
	kept   map[string]bool
	ends   map[int]int64
	failed int32
	stop   chan struct{}
	done   chan struct{}
}

func newFlow(c *check, topic string) *flow {
	f := &flow{kept: map[string]bool{}, ends: map[int]int64{}, stop: make(chan struct{}), done: make(chan struct{})}
	p := newProducer(c)
	go func() {
		defer close(f.done)
		defer p.Shutdown()
		for number := 0; ; number++ {
			select {
			case <-f.stop:
				return
			case <-time.After(time.Millisecond):
			}
			result, err := p.SendSync(context.Background(), message(topic, number))
			if err != nil || result.Status != primitive.SendOK {
				atomic.AddInt32(&f.failed, 1)
				continue
			}
			f.mutex.Lock()
			f.kept[key(number)] = true
			if end := result.QueueOffset + 1; f.ends[result.MessageQueue.QueueId] < end {
				f.ends[result.MessageQueue.QueueId] = end
			}
			f.mutex.Unlock()
		}
	}()
	return f
}

func (f *flow) count() int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return len(f.kept)
}

func (f *flow) end() {
	close(f.stop)
	<-f.done
}

// missing is what was acknowledged and not received.
func (f *flow) missing(received []string) int {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	missing := len(f.kept)
	for _, key := range received {
		if f.kept[key] {
			missing--
		}
	}
	return missing
}
