package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// Messages that go one by one, and in the batch behind them; as many as in the other languages.
const single, batched = 48, 10

// peerTags: "Aa" and "BB" have the same hash: a broker lets both pass, a client must tell them apart.
var peerTags = []string{"A", "B", "C", "Aa", "BB"}

func sample(topic string, number int, sharded bool) *primitive.Message {
	var body []byte
	switch number % 8 {
	case 7:
		// Long enough to be compressed, unless it goes in a batch.
		body = []byte(strings.Repeat(fmt.Sprintf("a long body %d ", number), 1000))
	case 3:
		body = []byte(fmt.Sprintf("ünïcödé ✓ %d", number))
	case 5:
		for value := 0; value < 256; value++ {
			body = append(body, byte(value))
		}
	default:
		body = []byte(fmt.Sprintf("body %d", number))
	}
	m := primitive.NewMessage(topic, body).WithTag(peerTags[number%len(peerTags)])
	m.WithKeys([]string{key(number), fmt.Sprintf("also-%d", number)})
	m.WithProperty("user", fmt.Sprintf("välue-%d", number))
	m.Flag = int32(1000 + number)
	if sharded && number%4 == 1 {
		m.WithShardingKey(fmt.Sprintf("shard-%d", number%3))
	}
	return m
}

func line(m *primitive.Message) string {
	// Java and ours have another name for it.
	shard := m.GetShardingKey() + m.GetProperty("__SHARDINGKEY")
	if shard == "" {
		shard = "-"
	}
	keys := strings.ReplaceAll(strings.TrimSpace(m.GetKeys()), " ", "+")
	return fmt.Sprintf("%s %s %d %s %s %d %d", keys, m.GetTags(), m.Flag, m.GetProperty("user"), shard, len(m.Body),
		crc32.ChecksumIEEE(m.Body)&0x7fffffff)
}

// peerSend sends the samples, and prints what each is and where it lies.
func peerSend(c *check, words []string) {
	topic := words[0]
	p := newProducer(c, producer.WithQueueSelector(producer.NewHashQueueSelector()))
	defer p.Shutdown()
	for number := 0; number < single; number++ {
		m := sample(topic, number, true)
		text := line(m)
		r, err := p.SendSync(context.Background(), m)
		c.must(err)
		fmt.Println("sent", text, r.MessageQueue.QueueId, r.QueueOffset, r.MsgID, r.OffsetMsgID)
	}
	var batch []*primitive.Message
	var lines []string
	for number := single; number < single+batched; number++ {
		// A batch goes to one queue: none of its messages chooses another one.
		m := sample(topic, number, false)
		// This client gives no ids to the messages of a batch; those that a broker gives then it does not hear of.
		m.WithProperty(primitive.PropertyUniqueClientMessageIdKeyIndex, primitive.CreateUniqID())
		batch = append(batch, m)
		lines = append(lines, line(batch[len(batch)-1]))
	}
	r, err := p.SendSync(context.Background(), batch...)
	c.must(err)
	places := strings.Split(r.OffsetMsgID, ",")
	for n, text := range lines {
		id := batch[n].GetProperty(primitive.PropertyUniqueClientMessageIdKeyIndex)
		fmt.Println("sent", text, r.MessageQueue.QueueId, r.QueueOffset+int64(n), id, places[n])
	}
}

type listener func(m *primitive.MessageExt)

func peerConsumer(c *check, topic, group, tags string, listen listener, options ...consumer.Option) rocketmq.PushConsumer {
	options = append([]consumer.Option{
		consumer.WithNameServer(primitive.NamesrvAddr{nameServer}),
		consumer.WithGroupName(group),
		consumer.WithInstance(instance()),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, options...)
	pc, err := rocketmq.NewPushConsumer(options...)
	c.must(err)
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: tags}
	c.must(pc.Subscribe(topic, selector, func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, m := range messages {
			listen(m)
		}
		return consumer.ConsumeSuccess, nil
	}))
	c.must(pc.Start())
	return pc
}

// peerTake receives so many messages, and what comes shortly behind them, and prints all.
func peerTake(c *check, words []string) {
	count, err := strconv.Atoi(words[3])
	c.must(err)
	var mutex sync.Mutex
	var all []string
	pc := peerConsumer(c, words[0], words[1], words[2], func(m *primitive.MessageExt) {
		mutex.Lock()
		defer mutex.Unlock()
		all = append(all, fmt.Sprintln("got", line(&m.Message), m.Queue.QueueId, m.QueueOffset, m.MsgId, m.OffsetMsgId))
	})
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		mutex.Lock()
		enough := len(all) >= count
		mutex.Unlock()
		if enough {
			break
		}
	}
	time.Sleep(500 * time.Millisecond)
	c.must(pc.Shutdown())
	fmt.Print(strings.Join(all, ""))
}

type peerMember struct {
	consumer rocketmq.PushConsumer
	mutex    sync.Mutex
	owns     []string
}

var peerMembers = map[string]*peerMember{}

// peerJoin begins a member of a group that prints what it takes, before the broker can hear of it.
func peerJoin(c *check, words []string) {
	name, topic := words[0], words[1]
	member := &peerMember{}
	// The client does not say what it has, but what it gives itself.
	allocate := func(group, self string, queues []*primitive.MessageQueue, members []string) []*primitive.MessageQueue {
		mine := consumer.AllocateByAveragely(group, self, queues, members)
		if len(queues) > 0 && queues[0].Topic == topic {
			member.mutex.Lock()
			defer member.mutex.Unlock()
			member.owns = nil
			for _, queue := range mine {
				member.owns = append(member.owns, strconv.Itoa(queue.QueueId))
			}
		}
		return mine
	}
	// One goroutine, so that the order of a queue is the order in which it is consumed.
	member.consumer = peerConsumer(c, topic, words[2], "*", func(m *primitive.MessageExt) {
		fmt.Println("took", name, m.Queue.QueueId, m.QueueOffset, string(m.Body), time.Now().UnixMicro())
	}, consumer.WithStrategy(allocate), consumer.WithConsumeGoroutineNums(1))
	peerMembers[name] = member
}

func peerOwns(_ *check, words []string) {
	member := peerMembers[words[0]]
	member.mutex.Lock()
	defer member.mutex.Unlock()
	fmt.Println("owns", strings.Join(member.owns, " "))
}

func peerLeave(c *check, words []string) {
	c.must(peerMembers[words[0]].consumer.Shutdown())
	delete(peerMembers, words[0])
}
