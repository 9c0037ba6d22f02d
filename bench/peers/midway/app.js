// A Midway application with one Kafka consumer class: from the first message to the RECORDS-th, in milliseconds.
// The decorators are called as functions, so that nothing has to be compiled.
require('reflect-metadata')
const { Bootstrap } = require('@midwayjs/bootstrap')
const { Configuration, Provide } = require('@midwayjs/core')
const kafka = require('@midwayjs/kafka')

const [broker, topic, groupId, records] = process.argv.slice(2)
const total = Number(records)
let count = 0
let first
let sum = 0

class Orders {
  async eachMessage({ message }) {
    if (count === 0) first = performance.now()
    sum += message.value.length
    if (++count === total) {
      console.log(`${count} ${Math.max(1, Math.round(performance.now() - first))}`)
      process.exit(0)
    }
  }
}
kafka.KafkaConsumer('orders')(Orders)

class Application {}
Configuration({
  imports: [kafka],
  importConfigs: [{
    default: {
      kafka: {
        consumer: {
          orders: {
            connectionOptions: { clientId: 'bench', brokers: [broker] },
            consumerOptions: { groupId },
            subscribeOptions: { topics: [topic], fromBeginning: true },
          },
        },
      },
      midwayLogger: { default: { level: 'warn', enableFile: false, enableError: false } },
    },
  }],
})(Application)

Bootstrap.configure({ imports: [{ Configuration: Application, Orders }] }).run().catch((error) => {
  console.error(error)
  process.exit(1)
})
