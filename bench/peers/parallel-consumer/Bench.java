import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ParallelConsumerOptionsBuilder;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Confluent's Parallel Consumer in the order of keys: from the first message's start to the RECORDS-th one's end, in
 * milliseconds. The task `wait` sleeps for 0 to 5 ms in each. The task `emit` writes each to the topic of BENCH_OUT in
 * its transactional mode, and ends with the RECORDS-th acknowledgement.
 */
public class Bench {
  static final AtomicLong started = new AtomicLong();
  static final AtomicInteger count = new AtomicInteger();

  public static void main(String[] arguments) {
    int total = Integer.parseInt(arguments[3]);
    if (arguments[4].equals("emit")) {
      emit(arguments, total);
      return;
    }
    boolean waits = arguments[4].equals("wait");
    var processor = ParallelStreamProcessor.createEosStreamProcessor(
        options(arguments)
            .maxConcurrency(waits ? 1000 : 16)
            .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
            .build());
    processor.subscribe(List.of(arguments[1]));
    processor.poll(context -> {
      begin();
      if (waits) pause();
      if (count.incrementAndGet() == total) {
        System.out.println(total + " " + elapsed());
        Runtime.getRuntime().halt(0);
      }
    });
  }

  static ParallelConsumerOptionsBuilder<String, byte[]> options(String[] arguments) {
    var consumer = new KafkaConsumer<String, byte[]>(Map.of(
        "bootstrap.servers", arguments[0],
        "group.id", arguments[2],
        "auto.offset.reset", "earliest",
        "enable.auto.commit", false,
        "max.poll.records", 10_000,
        "key.deserializer", StringDeserializer.class,
        "value.deserializer", ByteArrayDeserializer.class));
    return ParallelConsumerOptions.<String, byte[]>builder()
        .consumer(consumer)
        .ordering(ProcessingOrder.KEY);
  }

  static void emit(String[] arguments, int total) {
    var producer = new KafkaProducer<String, byte[]>(Map.of(
        "bootstrap.servers", arguments[0],
        "transactional.id", arguments[2],
        "linger.ms", 0,
        "batch.size", 1_000_000,
        "key.serializer", StringSerializer.class,
        "value.serializer", ByteArraySerializer.class));
    var processor = ParallelStreamProcessor.createEosStreamProcessor(
        options(arguments)
            .producer(producer)
            .maxConcurrency(1000)
            .commitMode(CommitMode.PERIODIC_TRANSACTIONAL_PRODUCER)
            .commitInterval(Duration.ofMillis(100))
            .build());
    processor.subscribe(List.of(arguments[1]));
    String out = System.getenv("BENCH_OUT");
    processor.pollAndProduce(context -> {
      begin();
      return new ProducerRecord<>(out, context.key(), context.value());
    }, result -> {
      if (count.incrementAndGet() == total) {
        long took = elapsed();
        new Thread(() -> {
          processor.closeDontDrainFirst();
          System.out.println(total + " " + took);
          Runtime.getRuntime().halt(0);
        }).start();
      }
    });
  }

  static void begin() {
    if (started.get() == 0) started.compareAndSet(0, System.nanoTime());
  }

  static long elapsed() {
    return Math.max(1, (System.nanoTime() - started.get()) / 1_000_000);
  }

  static void pause() {
    LockSupport.parkNanos(ThreadLocalRandom.current().nextLong(5_000_000));
  }
}
