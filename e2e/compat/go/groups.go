package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// What a broker does for groups of consumers: retries and dead letters, delays, sharing of queues,
// namespaces, traces; and clients that outlive a restart.

func retryDLQ(b *bench) {
	const count = 4
	g := &got{}
	each := func(
		_ context.Context, messages ...*primitive.MessageExt,
	) (consumer.ConsumeResult, error) {
		g.add(messages)
		if b.broken {
			return consumer.ConsumeSuccess, nil
		}
		return consumer.ConsumeRetryLater, nil
	}
	b.push(b.group(), all, each, consumer.WithMaxReconsumeTimes(1))
	b.sendAll(1, 1+count)
	b.until("one retry of each message", 100, func() bool { return g.count() >= 2*count })
	var wanted, seen []string
	for times := range 2 {
		for _, item := range b.wantedAll(1, 1+count) {
			wanted = append(wanted, fmt.Sprint(times, b.topic, item))
		}
	}
	for _, m := range g.all() {
		seen = append(seen, fmt.Sprint(int(m.ReconsumeTimes), m.Topic, text(&m.Message)))
	}
	sameSet("deliveries: times, topic, message", wanted, seen)
	var dead []*primitive.MessageExt
	b.poll("%DLQ%"+b.group(), 60, func(messages []*primitive.MessageExt) bool {
		dead = messages
		return len(messages) >= count
	})
	sameSet("dead letters", b.wantedAll(1, 1+count), texts(dead))
	for _, m := range dead {
		same("origin", b.topic, m.GetProperty(primitive.PropertyRetryTopic))
	}
}

func delayLevels(b *bench) {
	delays := []time.Duration{0, time.Second, 5 * time.Second, 10 * time.Second}
	const lateMax = 5 * time.Second
	g := b.consuming(b.group())
	b.send(b.message(100))
	b.until("a message without delay", 60, func() bool { return g.count() == 1 })
	g.clear()
	sent := make([]time.Time, len(delays))
	for level := 1; level < len(delays); level++ {
		message := b.message(level)
		if !b.broken {
			message.WithDelayTimeLevel(level)
		}
		sent[level] = time.Now()
		b.send(message)
	}
	b.until("each message", 30, func() bool { return g.count() >= len(delays)-1 })
	same("order and content", b.wantedAll(1, len(delays)), g.texts())
	for level := 1; level < len(delays); level++ {
		took := g.times[level-1].Sub(sent[level])
		if took < delays[level] || took > delays[level]+lateMax {
			fail("level %d, %s, came after %s", level, delays[level], took)
		}
		same("topic", b.topic, g.messages[level-1].Topic)
	}
}

func rebalance(b *bench) {
	gots := []*got{}
	consumers := []rocketmq.PushConsumer{}
	for i := range 2 {
		group := b.group()
		if b.broken {
			group = fmt.Sprintf("%s-%d", group, i)
		}
		g := &got{}
		gots = append(gots, g)
		consumers = append(consumers, b.push(group, all, g.consume))
	}
	next, half := 1, b.queues/2
	// Until the queues are shared, a round may be consumed by one, or twice.
	b.until("each consumer has half of the queues", 90, func() bool {
		return slices.Equal(b.round(&next, gots, 1), []int{half, half})
	})
	same("messages a consumer", []int{10 * half, 10 * half}, b.round(&next, gots, 10))
	owner := map[int]int{}
	for i, g := range gots {
		for _, m := range g.all() {
			if before, taken := owner[m.Queue.QueueId]; taken && before != i {
				fail("queue %d has two consumers", m.Queue.QueueId)
			}
			owner[m.Queue.QueueId] = i
		}
	}
	must(consumers[1].Shutdown())
	b.until("one consumer has all queues", 90, func() bool {
		return slices.Equal(b.round(&next, gots, 1), []int{2 * half, 0})
	})
	same("messages of the last consumer", []int{20 * half, 0}, b.round(&next, gots, 10))
}

// Sends some messages to each queue. How many each consumer has got, if each message came once and
// nothing is missing; nothing otherwise.
func (b *bench) round(next *int, gots []*got, each int) []int {
	for _, g := range gots {
		g.clear()
	}
	from := *next
	for i := range each * b.queues {
		b.sendTo(i%b.queues, b.message(*next))
		*next++
	}
	wanted := b.wantedAll(from, *next)
	var seen []string
	b.within(5, func() bool {
		seen = nil
		for _, g := range gots {
			seen = append(seen, g.texts()...)
		}
		return len(seen) >= len(wanted)
	})
	slices.Sort(wanted)
	slices.Sort(seen)
	if !slices.Equal(wanted, seen) {
		return nil
	}
	var counts []int
	for _, g := range gots {
		counts = append(counts, g.count())
	}
	return counts
}

// One topic in two namespaces: each consumer sees its own, under the name without namespace.
func namespace(b *bench) {
	names := []string{"NSA", "NSB"}
	gots := []*got{}
	for i, name := range names {
		made := b.producer(producer.WithNamespace(name))
		for n := 1 + 10*i; n < 11+10*i; n++ {
			_, err := made.SendSync(context.Background(), b.message(n))
			must(err)
		}
		if b.broken {
			name = names[1-i]
		}
		gots = append(gots, b.consuming(b.group(), consumer.WithNamespace(name)))
	}
	for i, name := range names {
		b.within(60, func() bool { return gots[i].count() >= 10 })
		settle()
		wanted := b.wantedAll(1+10*i, 11+10*i)
		sameSet("in "+name, wanted, gots[i].texts())
		var stored []*primitive.MessageExt
		b.poll(name+"%"+b.topic, 60, func(messages []*primitive.MessageExt) bool {
			stored = messages
			return len(messages) >= 10
		})
		sameSet("stored in "+name, wanted, texts(stored))
	}
}

// A trace record is text: fields between \x01, the records of a message between \x02.
func trace(b *bench) {
	config := &primitive.TraceConfig{
		GroupName: b.group(), Access: primitive.Local, NamesrvAddrs: []string{b.namesrv},
	}
	var sending []producer.Option
	var receiving []consumer.Option
	if !b.broken {
		sending = append(sending, producer.WithTrace(config))
		receiving = append(receiving, consumer.WithTrace(config))
	}
	sent, err := b.producer(sending...).SendSync(context.Background(), b.message(1))
	must(err)
	g := b.consuming(b.group(), receiving...)
	b.until("the message", 60, func() bool { return g.count() == 1 })
	same("id", sent.MsgID, g.all()[0].MsgId)
	kinds := map[string]bool{}
	b.poll("RMQ_SYS_TRACE_TOPIC", 60, func(records []*primitive.MessageExt) bool {
		for _, record := range records {
			for _, item := range strings.Split(string(record.Body), "\x02") {
				fields := strings.Split(item, "\x01")
				known := slices.Contains(fields, sent.MsgID) &&
					strings.Contains(record.GetKeys(), sent.MsgID)
				if known && (fields[0] != "Pub" || slices.Contains(fields, b.topic)) {
					kinds[fields[0]] = true
				}
			}
		}
		return len(kinds) >= 3
	})
	same("records of the message",
		map[string]bool{"Pub": true, "SubBefore": true, "SubAfter": true}, kinds)
}

// Producer and consumer live on; a send that fails meanwhile is tried again.
func reconnect(b *bench) {
	const count = 10
	made := b.producer(producer.WithSendMsgTimeout(3 * time.Second))
	for n := 1; n < count; n++ {
		_, err := made.SendSync(context.Background(), b.message(n))
		must(err)
	}
	g := b.consuming(b.group())
	b.until("the messages before", 60, func() bool { return g.count() >= count-1 })
	answer(answerLine{Check: b.check, Outcome: "restart"})
	select {
	case <-restarted:
	case <-time.After(90 * time.Second):
		fail("no restart")
	}
	for n := count; n < 2*count; n++ {
		b.until("a send after the restart", 60, func() bool {
			result, err := made.SendSync(context.Background(), b.message(n))
			return err == nil && result.Status == primitive.SendOK
		})
	}
	seen := func() []string {
		list := g.texts()
		slices.Sort(list)
		return slices.Compact(list)
	}
	b.within(60, func() bool { return len(seen()) >= 2*count-1 })
	sameSet("what was consumed, each once or more", b.wantedAll(1, 2*count), seen())
}
