// A group consumer of franz-go in its plain loop: from the first message to the RECORDS-th, in milliseconds. Commits are
// automatic.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
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

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
