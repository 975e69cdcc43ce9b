package main

import (
	"bytes"
	"context"
	"sync"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// Sending: each message is read back by the queue and offset that its acknowledgement names.

const sends = 20

// Reads what lies at an offset.
func (b *bench) reader() func(*primitive.MessageQueue, int64) *primitive.MessageExt {
	reader, err := b.puller("r-"+b.topic, b.topic)
	must(err)
	return func(queue *primitive.MessageQueue, offset int64) *primitive.MessageExt {
		result, err := reader.PullFrom(context.Background(), queue, offset, 1)
		must(err)
		same("status of a pull", primitive.PullFound, result.Status)
		found := result.GetMessageExts()[0]
		same("offset of what lies there", offset, found.QueueOffset)
		return found
	}
}

func (b *bench) readBack(n int, results ...*primitive.SendResult) {
	at := b.reader()
	for _, result := range results {
		same("status", primitive.SendOK, result.Status)
		found := at(result.MessageQueue, result.QueueOffset)
		same("message", b.wanted(n), text(&found.Message))
		same("id", result.MsgID, found.MsgId)
		n++
	}
}

func sendSync(b *bench) {
	var results []*primitive.SendResult
	for n := range sends {
		results = append(results, b.send(b.message(n)))
	}
	b.readBack(0, results...)
}

func sendAsync(b *bench) {
	results := make([]*primitive.SendResult, sends)
	failures := []string{}
	var mutex sync.Mutex
	var waiting sync.WaitGroup
	made := b.producer()
	for n := range sends {
		waiting.Add(1)
		must(made.SendAsync(context.Background(),
			func(_ context.Context, result *primitive.SendResult, err error) {
				mutex.Lock()
				defer mutex.Unlock()
				if err != nil {
					failures = append(failures, err.Error())
				}
				results[n] = result
				waiting.Done()
			}, b.message(n)))
	}
	done := make(chan struct{})
	go func() { waiting.Wait(); close(done) }()
	b.until("all callbacks", 20, func() bool {
		select {
		case <-done:
			return true
		default:
			return false
		}
	})
	same("failures", []string{}, failures)
	b.readBack(0, results...)
}

func sendOneway(b *bench) {
	made := b.producer()
	for n := range sends {
		must(made.SendOneWay(context.Background(), b.message(n)))
	}
	var found []*primitive.MessageExt
	b.poll(b.topic, 60, func(messages []*primitive.MessageExt) bool {
		found = messages
		return len(messages) >= sends
	})
	sameSet("what was sent", b.wantedAll(0, sends), texts(found))
}

func sendBatch(b *bench) {
	var batch []*primitive.Message
	for n := range sends {
		batch = append(batch, b.message(n))
	}
	result, err := b.producer().SendSync(context.Background(), batch...)
	must(err)
	same("status", primitive.SendOK, result.Status)
	// This client gives the messages of a batch no ids of its own.
	var found []string
	at := b.reader()
	for n := range sends {
		message := at(result.MessageQueue, result.QueueOffset+int64(n))
		found = append(found, text(&message.Message))
	}
	same("messages at adjacent offsets", b.wantedAll(0, sends), found)
}

func sendSelector(b *bench) {
	var results []*primitive.SendResult
	for n := range sends {
		queue := n * n % b.queues
		message := b.message(n)
		message.Queue = b.queue(queue)
		if b.broken {
			message.Queue = b.queue(0)
		}
		result := b.send(message)
		same("queue", *b.queue(queue), *result.MessageQueue)
		results = append(results, result)
	}
	b.readBack(0, results...)
}

func sendCompressed(b *bench) {
	body := bytes.Repeat([]byte{'x'}, 64*1024)
	message := b.message(1)
	message.Body = bytes.Clone(body)
	result := b.send(message)
	found := b.reader()(result.MessageQueue, result.QueueOffset)
	if b.broken {
		body[0] = 'y'
	}
	if !bytes.Equal(body, found.Body) {
		fail("the body is another")
	}
	if int(found.StoreSize) >= len(body) {
		fail("stored with %d bytes: not as it was sent", found.StoreSize)
	}
}

// By queue and offset.
func pull(b *bench) {
	for n := range sends {
		b.sendTo(0, b.message(n))
	}
	b.readable(1, sends)
	made, err := b.puller(b.group(), b.topic)
	must(err)
	got := []string{}
	for from := int64(0); from < sends; from += 5 {
		result, err := made.PullFrom(context.Background(), b.queue(0), from, 5)
		must(err)
		same("status", primitive.PullFound, result.Status)
		same("next, min, max", []int64{from + 5, 0, sends},
			[]int64{result.NextBeginOffset, result.MinOffset, result.MaxOffset})
		got = append(got, texts(result.GetMessageExts())...)
	}
	same("messages by offset", b.wantedAll(0, sends), got)
	for beyond, wanted := range map[int64]primitive.PullStatus{
		sends: primitive.PullNoNewMsg, sends + 1: primitive.PullOffsetIllegal,
		1000: primitive.PullOffsetIllegal,
	} {
		result, err := made.PullFrom(context.Background(), b.queue(0), beyond, 5)
		must(err)
		same("status beyond", wanted, result.Status)
		same("next beyond", int64(sends), result.NextBeginOffset)
	}
	must(made.UpdateOffset(b.queue(0), 7))
	must(made.PersistOffset(context.Background(), b.topic))
	must(made.Shutdown())
	again, err := b.puller(b.group(), b.topic)
	must(err)
	offset, err := again.CurrentOffset(b.queue(0))
	must(err)
	same("committed offset", int64(7), offset)
}

// Polling what is assigned by the group; a second consumer goes on where the first one has stopped.
func liteSubscribe(b *bench) {
	for part := range 2 {
		b.sendAll(part*sends, (part+1)*sends)
		made, err := b.puller(b.group(), b.topic)
		must(err)
		var messages []*primitive.MessageExt
		b.within(60, func() bool {
			messages = append(messages, pollOnce(made)...)
			return len(messages) >= sends
		})
		messages = append(messages, pollOnce(made)...) // what should not come
		sameSet("what was polled", b.wantedAll(part*sends, (part+1)*sends), texts(messages))
		must(made.Shutdown())
	}
}

// Two of the tags have one hash code: a broker that filters by it passes both.
func tagFilter(b *bench) {
	tags := []string{"AaAa", "BBBB", "Other", "Unwanted"}
	var wanted []string
	for n := 1; n <= 2*sends; n++ {
		tag := tags[n%len(tags)]
		message := b.message(n).WithTag(tag)
		b.send(message)
		if tag == "AaAa" || tag == "Other" {
			wanted = append(wanted, text(message))
		}
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: "AaAa || Other"}
	if b.broken {
		selector = all
	}
	g := &got{}
	b.push(b.group(), selector, g.consume)
	b.within(60, func() bool { return g.count() >= len(wanted) })
	settle()
	sameSet("what was consumed", wanted, g.texts())
}
