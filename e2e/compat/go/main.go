// Runs checks with the official Go client, as ../java/Compat.java does with Java's: a line on stdin
// begins one, a JSON line on stdout ends it. Checks run at once, each with topics and groups of its
// own.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var checks = map[string]func(*bench){
	"send_sync":        sendSync,
	"send_async":       sendAsync,
	"send_oneway":      sendOneway,
	"send_batch":       sendBatch,
	"send_selector":    sendSelector,
	"send_compressed":  sendCompressed,
	"push_concurrent":  pushConcurrent,
	"push_orderly":     pushOrderly,
	"push_broadcast":   pushBroadcast,
	"tag_filter":       tagFilter,
	"offset_first":     offsetFirst,
	"offset_last":      offsetLast,
	"offset_timestamp": offsetTimestamp,
	"pull":             pull,
	"lite_subscribe":   liteSubscribe,
	"retry_dlq":        retryDLQ,
	"delay_levels":     delayLevels,
	"rebalance":        rebalance,
	"namespace":        namespace,
	"trace":            trace,
	"reconnect":        reconnect,
}

// Closed when the harness has restarted the broker.
var restarted = make(chan struct{})

// What was seen is not what must be seen.
type differs struct{ words string }

type answerLine struct {
	Check   string `json:"check"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
	MS      int64  `json:"ms"`
}

var answers sync.Mutex

func answer(line answerLine) {
	answers.Lock()
	defer answers.Unlock()
	text, _ := json.Marshal(line)
	fmt.Println(string(text))
}

func main() {
	rlog.SetLogLevel("warn")
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		if commands.Text() == "restarted" {
			close(restarted)
			continue
		}
		go run(newBench(strings.Split(commands.Text(), "\t")))
	}
}

func run(b *bench) {
	begun := time.Now()
	line := answerLine{Check: b.check, Outcome: "pass"}
	defer func() {
		switch failure := recover().(type) {
		case nil:
		case differs:
			line.Outcome, line.Reason = "differs", failure.words
		case error:
			line.Outcome, line.Reason = "threw", failure.Error()
		default:
			line.Outcome, line.Reason = "threw", fmt.Sprint(failure)
		}
		line.MS = time.Since(begun).Milliseconds()
		answer(line)
		b.close()
	}()
	checks[b.check](b)
}
