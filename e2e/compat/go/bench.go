package main

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// What one run of a check works with: its topic, clients that are closed at its end, messages whose
// content is known by their number, and comparisons. A broken run takes the check's precondition
// away: each check says how, by default message 0 is sent with another body than expected.
type bench struct {
	check, namesrv, topic, broker string
	queues                        int
	broken                        bool
	shared                        rocketmq.Producer
	closing                       []func() error
}

const brokenSecondsMax = 10

var (
	all       = consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}
	instances atomic.Int64
)

func newBench(fields []string) *bench {
	queues, err := strconv.Atoi(fields[4])
	must(err)
	return &bench{
		check: fields[0], namesrv: fields[1], topic: fields[2], broker: fields[3],
		queues: queues, broken: fields[5] == "true",
	}
}

func (b *bench) close() {
	for _, end := range b.closing {
		_ = end()
	}
}

// Messages.

func (b *bench) key(n int) string { return fmt.Sprintf("%s-%d", b.topic, n) }

func (b *bench) body(n int) string { return "body of " + b.key(n) }

func (b *bench) wanted(n int) string {
	return fmt.Sprintf("%s tag%d %d %s", b.key(n), n%3, n, b.body(n))
}

func (b *bench) wantedAll(from, to int) []string {
	var list []string
	for n := from; n < to; n++ {
		list = append(list, b.wanted(n))
	}
	return list
}

func (b *bench) message(n int) *primitive.Message {
	body := b.body(n)
	if b.broken && n == 0 {
		body = "another body"
	}
	message := primitive.NewMessage(b.topic, []byte(body)).WithTag(fmt.Sprintf("tag%d", n%3))
	message.WithKeys([]string{b.key(n)}).WithProperty("number", strconv.Itoa(n))
	return message
}

func text(m *primitive.Message) string {
	return fmt.Sprintf("%s %s %s %s", strings.TrimSpace(m.GetKeys()), m.GetTags(),
		m.GetProperty("number"), m.Body)
}

func number(m *primitive.MessageExt) int {
	n, err := strconv.Atoi(m.GetProperty("number"))
	must(err)
	return n
}

// Clients.

func (b *bench) instance() string {
	return fmt.Sprintf("%s-%d-%d", b.check, instances.Add(1), time.Now().UnixNano())
}

// A message that names its queue goes there, others go around.
type namedQueue struct{ next atomic.Int64 }

func (s *namedQueue) Select(
	m *primitive.Message, queues []*primitive.MessageQueue, _ string,
) *primitive.MessageQueue {
	id := int(s.next.Add(1)) % len(queues)
	if m.Queue != nil {
		id = slices.IndexFunc(queues, func(q *primitive.MessageQueue) bool {
			return q.QueueId == m.Queue.QueueId
		})
	}
	return queues[id]
}

func (b *bench) producer(options ...producer.Option) rocketmq.Producer {
	options = append([]producer.Option{
		producer.WithNameServer([]string{b.namesrv}), producer.WithInstanceName(b.instance()),
		producer.WithGroupName("p-" + b.topic), producer.WithSendMsgTimeout(10 * time.Second),
		producer.WithQueueSelector(&namedQueue{}),
	}, options...)
	made, err := rocketmq.NewProducer(options...)
	must(err)
	must(made.Start())
	b.closing = append(b.closing, made.Shutdown)
	return made
}

func (b *bench) send(message *primitive.Message) *primitive.SendResult {
	if b.shared == nil {
		b.shared = b.producer()
	}
	result, err := b.shared.SendSync(context.Background(), message)
	must(err)
	same("status", primitive.SendOK, result.Status)
	return result
}

func (b *bench) sendAll(from, to int) {
	for n := from; n < to; n++ {
		b.send(b.message(n))
	}
}

func (b *bench) sendTo(queue int, message *primitive.Message) *primitive.SendResult {
	message.Queue = b.queue(queue)
	return b.send(message)
}

func (b *bench) queue(id int) *primitive.MessageQueue {
	return &primitive.MessageQueue{Topic: b.topic, BrokerName: b.broker, QueueId: id}
}

func (b *bench) group() string { return "g-" + b.topic }

func (b *bench) options(group string, more []consumer.Option) []consumer.Option {
	return append([]consumer.Option{
		consumer.WithNameServer([]string{b.namesrv}), consumer.WithInstance(b.instance()),
		consumer.WithGroupName(group), consumer.WithPullBatchSize(32),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, more...)
}

type listener = func(context.Context, ...*primitive.MessageExt) (consumer.ConsumeResult, error)

func (b *bench) push(
	group string, selector consumer.MessageSelector, each listener, more ...consumer.Option,
) rocketmq.PushConsumer {
	made, err := rocketmq.NewPushConsumer(b.options(group, more)...)
	must(err)
	must(made.Subscribe(b.topic, selector, each))
	must(made.Start())
	b.closing = append(b.closing, made.Shutdown)
	return made
}

// A new consumer of everything, and what it gets.
func (b *bench) consuming(group string, more ...consumer.Option) *got {
	g := &got{}
	b.push(group, all, g.consume, more...)
	return g
}

func (b *bench) puller(group, topic string) (rocketmq.PullConsumer, error) {
	made, err := rocketmq.NewPullConsumer(b.options(group, nil)...)
	must(err)
	must(made.Subscribe(topic, all))
	if err := made.Start(); err != nil {
		return nil, err
	}
	b.closing = append(b.closing, made.Shutdown)
	return made, nil
}

// Waits until so many messages of the first queues can be read: Java's index follows its log.
func (b *bench) readable(queues int, wanted int64) {
	made, err := b.puller("r-"+b.instance(), b.topic)
	must(err)
	b.until("messages that can be read", 60, func() bool {
		var readable int64
		for queue := range queues {
			result, err := made.PullFrom(context.Background(), b.queue(queue), 0, 1)
			must(err)
			readable += result.MaxOffset
		}
		return readable >= wanted
	})
}

// What a consumer without offsets polls from a topic, which may not exist yet.
func (b *bench) poll(topic string, seconds int, enough func([]*primitive.MessageExt) bool) {
	var reader rocketmq.PullConsumer
	var messages []*primitive.MessageExt
	b.within(seconds, func() bool {
		if reader == nil {
			var err error
			if reader, err = b.puller("r-"+b.instance(), topic); err != nil {
				reader = nil
				return false
			}
		}
		messages = append(messages, pollOnce(reader)...)
		return enough(messages)
	})
}

func pollOnce(from rocketmq.PullConsumer) []*primitive.MessageExt {
	request, err := from.Poll(context.Background(), time.Second)
	if consumer.IsNoNewMsgError(err) {
		return nil
	}
	must(err)
	from.ACK(context.Background(), request, consumer.ConsumeSuccess)
	return request.GetMsgList()
}

// What a consumer was given, in the order of arrival.
type got struct {
	mutex    sync.Mutex
	messages []*primitive.MessageExt
	times    []time.Time
}

func (g *got) consume(
	_ context.Context, messages ...*primitive.MessageExt,
) (consumer.ConsumeResult, error) {
	g.add(messages)
	return consumer.ConsumeSuccess, nil
}

func (g *got) add(messages []*primitive.MessageExt) {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	for _, m := range messages {
		g.messages = append(g.messages, m)
		g.times = append(g.times, time.Now())
	}
}

func (g *got) all() []*primitive.MessageExt {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return slices.Clone(g.messages)
}

func (g *got) count() int { return len(g.all()) }

func (g *got) clear() {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	g.messages, g.times = nil, nil
}

func (g *got) texts() []string { return texts(g.all()) }

func texts(messages []*primitive.MessageExt) []string {
	list := []string{}
	for _, m := range messages {
		list = append(list, text(&m.Message))
	}
	return list
}

// Comparisons.

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func fail(format string, values ...any) { panic(differs{fmt.Sprintf(format, values...)}) }

func same(what string, wanted, seen any) {
	if !reflect.DeepEqual(wanted, seen) {
		fail("%s: wanted %s, got %s", what, brief(wanted), brief(seen))
	}
}

// The same messages, each as often, in any order.
func sameSet(what string, wanted, seen []string) {
	count := map[string]int{}
	for _, item := range wanted {
		count[item]++
	}
	for _, item := range seen {
		count[item]--
	}
	maps.DeleteFunc(count, func(_ string, times int) bool { return times == 0 })
	if len(count) > 0 {
		fail("%s: missing (+) or too many (-): %s", what, brief(count))
	}
}

func brief(value any) string {
	words := fmt.Sprint(value)
	if len(words) > 300 {
		words = words[:300] + "..."
	}
	return words
}

// Waits for a condition; without it the deadline ends the check.
func (b *bench) until(what string, seconds int, condition func() bool) {
	if !b.within(seconds, condition) {
		fail("%s: not within %d s", what, b.seconds(seconds))
	}
}

func (b *bench) within(seconds int, condition func() bool) bool {
	deadline := time.Now().Add(time.Duration(b.seconds(seconds)) * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// Nothing comes within a second or two that should not: what a check of absence waits.
func settle() { time.Sleep(1500 * time.Millisecond) }

func (b *bench) seconds(seconds int) int {
	if b.broken {
		return min(seconds, brokenSecondsMax)
	}
	return seconds
}
