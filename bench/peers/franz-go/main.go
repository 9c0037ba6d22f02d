// A group consumer of franz-go in its plain loop: from the first message to the RECORDS-th, in milliseconds. Commits are
// automatic. For `emit` it produces each message to the topic of BENCH_OUT, and commits what is acknowledged.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type order struct {
	ID       int64   `json:"id"`
	Customer string  `json:"customer"`
	Amount   float64 `json:"amount"`
}

func main() {
	broker, topic, group, task := os.Args[1], os.Args[2], os.Args[3], os.Args[5]
	total, err := strconv.Atoi(os.Args[4])
	check(err)
	if task == "emit" {
		pipe(broker, topic, group, os.Getenv("BENCH_OUT"), total)
		return
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	check(err)

	var count, sum int
	var first time.Time
	var latencies []int64
	handle := map[string]func(value []byte){
		"read": func(value []byte) { sum += len(value) },
		"json": func(value []byte) {
			var parsed order
			check(json.Unmarshal(value, &parsed))
			sum += int(parsed.ID) + len(parsed.Customer) + int(parsed.Amount)
		},
		"latency": func(value []byte) {
			if sent := int64(binary.LittleEndian.Uint64(value)); sent > 0 {
				latencies = append(latencies, (time.Now().UnixNano()-sent)/1000)
			}
		},
	}[task]
	for count < total {
		fetches := client.PollFetches(context.Background())
		fetches.EachRecord(func(message *kgo.Record) {
			if count == 0 {
				first = time.Now()
			}
			handle(message.Value)
			count++
		})
	}
	fmt.Println(count, max(1, time.Since(first).Milliseconds()))
	if len(latencies) > 0 {
		slices.Sort(latencies)
		at := func(thousandths int) int64 { return latencies[len(latencies)*thousandths/1000] }
		fmt.Println("latency", at(500), at(990), at(999), len(latencies))
	}
}

// Polls go on while earlier records are under way, as Produce allows; its promises come in order.
func pipe(broker, topic, group, out string, total int) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(100*time.Millisecond),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(5*time.Millisecond),
	)
	check(err)
	var first time.Time
	var acknowledged atomic.Int64
	done := make(chan struct{})
	sent := 0
	for sent < total {
		fetches := client.PollFetches(context.Background())
		fetches.EachRecord(func(message *kgo.Record) {
			if sent == total {
				return
			}
			if sent == 0 {
				first = time.Now()
			}
			sent++
			record := &kgo.Record{Topic: out, Key: message.Key, Value: message.Value}
			client.Produce(context.Background(), record, func(_ *kgo.Record, err error) {
				check(err)
				client.MarkCommitRecords(message)
				if acknowledged.Add(1) == int64(total) {
					close(done)
				}
			})
		})
	}
	<-done
	fmt.Println(sent, max(1, time.Since(first).Milliseconds()))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
