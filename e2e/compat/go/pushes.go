package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// Push consumers: concurrent, in order, broadcast; where they begin.

const pushed = 40

func pushConcurrent(b *bench) {
	b.sendAll(0, pushed)
	g := b.consuming(b.group())
	b.within(60, func() bool { return g.count() >= pushed })
	settle()
	sameSet("what was consumed", b.wantedAll(0, pushed), g.texts())
}

// Message n is in queue n modulo their number; one is refused once and must come again.
func pushOrderly(b *bench) {
	refused := b.queues + 1
	order := []int{}
	for n := range pushed {
		order = append(order, n)
	}
	if b.broken {
		order = append(order[b.queues:], order[:b.queues]...)
	}
	for _, n := range order {
		b.sendTo(n%b.queues, b.message(n))
	}
	g := &got{}
	var mutex sync.Mutex
	busy := map[int]int{}
	overlaps, times := 0, 0
	each := func(
		_ context.Context, messages ...*primitive.MessageExt,
	) (consumer.ConsumeResult, error) {
		queue := messages[0].Queue.QueueId
		mutex.Lock()
		if busy[queue]++; busy[queue] > 1 {
			overlaps++
		}
		mutex.Unlock()
		g.add(messages)
		mutex.Lock()
		defer mutex.Unlock()
		busy[queue]--
		if number(messages[0]) == refused {
			if times++; times == 1 {
				return consumer.SuspendCurrentQueueAMoment, nil
			}
		}
		return consumer.ConsumeSuccess, nil
	}
	b.push(b.group(), all, each, consumer.WithConsumerOrder(true))
	b.within(60, func() bool { return g.count() > pushed })
	settle()
	for queue := range b.queues {
		wanted := []string{}
		for n := queue; n < pushed; n += b.queues {
			wanted = append(wanted, b.wanted(n))
			if n == refused {
				wanted = append(wanted, b.wanted(n))
			}
		}
		seen := slices.DeleteFunc(g.all(), func(m *primitive.MessageExt) bool {
			return m.Queue.QueueId != queue
		})
		same("order in a queue", wanted, texts(seen))
	}
	same("queues consumed twice at once", 0, overlaps)
}

func pushBroadcast(b *bench) {
	b.sendAll(0, pushed)
	model := consumer.BroadCasting
	if b.broken {
		model = consumer.Clustering
	}
	gots := []*got{}
	for range 2 {
		gots = append(gots, b.consuming(b.group(), consumer.WithConsumerModel(model)))
	}
	for _, g := range gots {
		b.within(60, func() bool { return g.count() >= pushed })
	}
	settle()
	for _, g := range gots {
		sameSet("what one consumer got", b.wantedAll(0, pushed), g.texts())
	}
}

// A consumer of a group without offsets that begins where it is told. In a group of the clustering
// kind the broker answers 0 while the queue's first message is in memory, whatever the consumer
// wants; one that broadcasts decides by itself.
func (b *bench) from(where consumer.ConsumeFromWhere, more ...consumer.Option) *got {
	more = append(more, consumer.WithConsumerModel(consumer.BroadCasting),
		consumer.WithConsumeFromWhere(where))
	return b.consuming(b.group(), more...)
}

func offsetFirst(b *bench) {
	b.sendAll(0, pushed)
	where := consumer.ConsumeFromFirstOffset
	if b.broken {
		where = consumer.ConsumeFromLastOffset
	}
	g := b.from(where)
	b.within(60, func() bool { return g.count() >= pushed })
	settle()
	sameSet("what was consumed", b.wantedAll(0, pushed), g.texts())
}

func offsetLast(b *bench) {
	b.sendAll(0, pushed)
	b.readable(b.queues, pushed)
	where := consumer.ConsumeFromLastOffset
	if b.broken {
		where = consumer.ConsumeFromFirstOffset
	}
	g := b.from(where)
	const fresh = 1000
	next := fresh
	// It has found its place in each queue when something new arrives from there.
	b.until("new messages of each queue", 60, func() bool {
		for queue := range b.queues {
			b.sendTo(queue, b.message(next))
			next++
		}
		time.Sleep(200 * time.Millisecond)
		queues := map[int]bool{}
		for _, m := range g.all() {
			if number(m) >= fresh {
				queues[m.Queue.QueueId] = true
			}
		}
		return len(queues) == b.queues
	})
	old := slices.DeleteFunc(g.all(), func(m *primitive.MessageExt) bool {
		return number(m) >= fresh
	})
	same("what was sent before", []string{}, texts(old))
}

func offsetTimestamp(b *bench) {
	b.sendAll(0, pushed)
	between := time.Now().Truncate(time.Second).Add(2 * time.Second)
	time.Sleep(time.Until(between.Add(100 * time.Millisecond)))
	b.sendAll(pushed, 2*pushed)
	where := consumer.ConsumeFromTimestamp
	if b.broken {
		where = consumer.ConsumeFromFirstOffset
	}
	// The client reads the time as UTC.
	g := b.from(where, consumer.WithConsumeTimestamp(between.UTC().Format("20060102150405")))
	b.within(60, func() bool { return g.count() >= pushed })
	settle()
	sameSet("what was consumed", b.wantedAll(pushed, 2*pushed), g.texts())
}
