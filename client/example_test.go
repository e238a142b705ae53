package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

// cluster starts a cluster in memory with a topic, events, of records "one" to "three". Programs take the addresses of their nodes.
func cluster() (addrs []string, stop func()) {
	node, stop := clienttest.Run()
	c, err := client.New(client.Config{Addrs: []string{node.Addr()}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := client.NewAdmin(c).CreateTopic(context.Background(), "events", 1, nil); err != nil {
		log.Fatal(err)
	}
	p, err := client.NewProducer(c, client.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	for _, v := range []string{"one", "two", "three"} {
		if err := p.ProduceSync(context.Background(), &client.Record{Topic: "events", Value: []byte(v)}); err != nil {
			log.Fatal(err)
		}
	}
	if err := p.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	return []string{node.Addr()}, stop
}

// Write records without waiting for each, and wait for all of them in the end.
func ExampleProducer() {
	addrs, stop := cluster()
	defer stop()
	ctx := context.Background()

	c, err := client.New(client.Config{Addrs: addrs})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	p, err := client.NewProducer(c, client.ProducerConfig{Compression: client.CompressionZstd})
	if err != nil {
		log.Fatal(err)
	}
	for i := range 3 {
		r := &client.Record{Topic: "events", Key: []byte("user-7"), Value: fmt.Append(nil, "click ", i)}
		err := p.Produce(ctx, r, func(r *client.Record, err error) {
			if err != nil {
				log.Printf("%s was not written: %v", r.Value, err)
				return
			}
			fmt.Printf("%s is at offset %d\n", r.Value, r.Offset)
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	if err := p.Close(ctx); err != nil { // it flushes
		log.Fatal(err)
	}
	// Output:
	// click 0 is at offset 3
	// click 1 is at offset 4
	// click 2 is at offset 5
}

// Write one record and wait until it is on disk on a majority.
func ExampleProducer_ProduceSync() {
	addrs, stop := cluster()
	defer stop()
	c, err := client.New(client.Config{Addrs: addrs})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	p, err := client.NewProducer(c, client.ProducerConfig{})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(context.Background())

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r := &client.Record{Topic: "events", Value: []byte("signed in")}
	if err := p.ProduceSync(ctx, r); err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Topic, r.Partition, r.Offset)
	// Output: events 0 3
}

// Share the partitions of a topic with the other members of a group, until interrupted.
func ExampleConsumer() {
	addrs, stop := cluster()
	defer stop()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()

	c, err := client.New(client.Config{Addrs: addrs})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	r, err := client.NewConsumer(c, client.ConsumerConfig{Group: "billing", Topics: []string{"events"}})
	if err != nil {
		log.Fatal(err)
	}
	for ctx.Err() == nil {
		records, err := r.Poll(ctx)
		if err != nil {
			log.Print(err) // it says what is wrong; Poll goes on
			continue
		}
		for _, rec := range records {
			fmt.Printf("%s/%d@%d: %s\n", rec.Topic, rec.Partition, rec.Offset, rec.Value)
		}
		if records[len(records)-1].Offset == 2 {
			cancel() // the example ends here
		}
	}
	if err := r.Close(context.Background()); err != nil { // it commits what was polled, and leaves the group
		log.Fatal(err)
	}
	// Output:
	// events/0@0: one
	// events/0@1: two
	// events/0@2: three
}

// Commit records once they are processed, instead of at the next Poll.
func ExampleConsumer_CommitRecords() {
	addrs, stop := cluster()
	defer stop()
	ctx := context.Background()
	c, err := client.New(client.Config{Addrs: addrs})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	r, err := client.NewConsumer(c, client.ConsumerConfig{Group: "billing", Topics: []string{"events"}, ManualCommit: true})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close(ctx)

	records, err := r.Poll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	switch err := r.CommitRecords(ctx, records[0]); {
	case errors.Is(err, client.ErrNotOwned):
		// Another member has the partition by now, and processes the record again.
	case err != nil:
		log.Fatal(err)
	}
	committed, err := r.Committed(ctx, client.TopicPartition{Topic: "events", Partition: 0})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(committed)
	// Output: map[events/0:{1 }]
}

// See how far a group is behind.
func ExampleAdmin() {
	addrs, stop := cluster()
	defer stop()
	ctx := context.Background()
	c, err := client.New(client.Config{Addrs: addrs})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	a := client.NewAdmin(c)
	if err := a.CommitOffsets(ctx, "billing", "events", map[int32]client.Committed{0: {Offset: 1}}); err != nil {
		log.Fatal(err)
	}
	g, err := a.DescribeGroup(ctx, "billing")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(g.Name, g.State, g.Lag())
	// Output: billing empty 2
}
