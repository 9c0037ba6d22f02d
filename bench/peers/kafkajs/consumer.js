// A group member of kafkajs that handles message after message, as most of its users do: from the first message to the
// RECORDS-th, in milliseconds. Offsets are committed automatically, or by the handler, awaited, for the task `commit`. For
// `emit` it sends each message on to the topic of BENCH_OUT: a batch by one awaited send, or for `send` message by message.
// For `http` it gets a document of BENCH_HTTP for each message by undici, 100 of a batch at once.
const { Kafka, logLevel } = require('kafkajs')
const { Pool } = require('undici')

const [broker, topic, groupId, records, task] = process.argv.slice(2)
const total = Number(records)
const kafka = new Kafka({ clientId: 'bench', brokers: [broker], logLevel: logLevel.ERROR })
const consumer = kafka.consumer({ groupId })
const producer = kafka.producer({ idempotent: true })
const out = process.env.BENCH_OUT
const AT_ONCE = 100
const pool = task === 'http' && new Pool(process.env.BENCH_HTTP, { connections: AT_ONCE })

let count = 0
let first
let sum = 0
const latencies = []
const microseconds = () => (performance.timeOrigin + performance.now()) * 1000

const tasks = {
  read: async ({ message }) => { sum += message.value.length },
  json: async ({ message }) => {
    const order = JSON.parse(message.value)
    if (order.id === undefined || order.customer === undefined || order.amount === undefined) throw new Error('no order')
  },
  commit: async ({ topic, partition, message }) => {
    await consumer.commitOffsets([{ topic, partition, offset: (BigInt(message.offset) + 1n).toString() }])
  },
  send: async ({ message: { key, value } }) => {
    await producer.send({ topic: out, messages: [{ key, value }] })
  },
  latency: async ({ message }) => {
    const sent = message.value.readBigInt64LE(0)
    if (sent > 0n) latencies.push(microseconds() - Number(sent / 1000n))
  },
}
const handle = tasks[task]

function finish() {
  console.log(`${count} ${Math.max(1, Math.round(performance.now() - first))}`)
  if (latencies.length) {
    latencies.sort((a, b) => a - b)
    const at = (share) => Math.round(latencies[Math.min(latencies.length - 1, Math.floor(latencies.length * share))])
    console.log(`latency ${at(0.5)} ${at(0.99)} ${at(0.999)} ${latencies.length}`)
  }
  process.exit(0)
}

async function sendBatch({ batch, resolveOffset, heartbeat }) {
  if (count === 0) first = performance.now()
  const messages = batch.messages.slice(0, total - count)
  await producer.send({ topic: out, messages: messages.map(({ key, value }) => ({ key, value })) })
  resolveOffset(batch.lastOffset())
  await heartbeat()
  count += messages.length
  if (count === total) finish()
}

async function getBatch({ batch, resolveOffset, heartbeat }) {
  if (count === 0) first = performance.now()
  const messages = batch.messages.slice(0, total - count)
  let next = 0
  const lane = async () => {
    while (next < messages.length) {
      next++
      const { statusCode, body } = await pool.request({ path: '/document', method: 'GET' })
      if (statusCode !== 200) throw new Error(`status ${statusCode}`)
      await body.text()
      count++
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, lane))
  resolveOffset(batch.lastOffset())
  await heartbeat()
  if (count === total) finish()
}

async function main() {
  if (task === 'emit' || task === 'send') await producer.connect()
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  if (task === 'emit') return consumer.run({ eachBatch: sendBatch })
  if (task === 'http') return consumer.run({ eachBatch: getBatch })
  await consumer.run({
    autoCommit: task !== 'commit',
    partitionsConsumedConcurrently: 8,
    eachMessage: async (payload) => {
      if (count === 0) first = performance.now()
      await handle(payload)
      if (++count === total) finish()
    },
  })
}
main()
