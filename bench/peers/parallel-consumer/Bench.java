import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Confluent's Parallel Consumer in the order of keys: from the first message's start to the RECORDS-th one's end, in
 * milliseconds. The task `wait` sleeps for 0 to 5 ms in each.
 */
public class Bench {
  public static void main(String[] arguments) {
    int total = Integer.parseInt(arguments[3]);
    boolean waits = arguments[4].equals("wait");
    var consumer = new KafkaConsumer<String, byte[]>(Map.of(
        "bootstrap.servers", arguments[0],
        "group.id", arguments[2],
        "auto.offset.reset", "earliest",
        "enable.auto.commit", false,
        "max.poll.records", 10_000,
        "key.deserializer", StringDeserializer.class,
        "value.deserializer", ByteArrayDeserializer.class));
    var processor = ParallelStreamProcessor.createEosStreamProcessor(
        ParallelConsumerOptions.<String, byte[]>builder()
            .consumer(consumer)
            .ordering(ProcessingOrder.KEY)
            .maxConcurrency(waits ? 1000 : 16)
            .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
            .build());
    processor.subscribe(List.of(arguments[1]));
    var started = new AtomicLong();
    var count = new AtomicInteger();
    processor.poll(context -> {
      if (started.get() == 0) started.compareAndSet(0, System.nanoTime());
      if (waits) pause();
      if (count.incrementAndGet() == total) {
        System.out.println(total + " " + Math.max(1, (System.nanoTime() - started.get()) / 1_000_000));
        Runtime.getRuntime().halt(0);
      }
    });
  }

  static void pause() {
    LockSupport.parkNanos(ThreadLocalRandom.current().nextLong(5_000_000));
  }
}
