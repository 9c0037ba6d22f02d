---@meta tide

---A Kafka record.
---@class message
---@field topic string
---@field partition integer
---@field offset integer
---@field key string? bytes; nil for a record without a key
---@field value string? bytes; nil for a tombstone
---@field timestamp integer? milliseconds since the epoch
---@field headers table<string, string|string[]>

---A log with the coordinates of the message in each line.
---@class logger
---@field debug fun(message: any, fields?: table)
---@field info fun(message: any, fields?: table)
---@field warn fun(message: any, fields?: table)
---@field error fun(message: any, fields?: table)

---Attributes of the whole process, over all workers and reloads.
---@class app
---@field setAttr fun(key: string, value: any)
---@field getAttr fun(key: string): any

---The trace context of a message: its headers of W3C Trace Context and W3C Baggage.
---@class trace
---@field traceparent string? nil also for an invalid one
---@field tracestate string? nil without a valid traceparent
---@field baggage string?

---A timer, of `tide.every` or `tide.after`.
---@class tide.Timer
---@field cancel fun() no further tick begins

---What happens to partitions of a consumer.
---@class tide.PartitionEvent
---@field event "assigned"|"revoked"|"lost"
---@field consumer string
---@field partitions { topic: string, partition: integer }[]

---A partition of a topic that the consumer has; without a field, that of the message.
---@class consumer.Partition
---@field topic? string
---@field partition? integer

---Partitions of a topic; without `partition` and `partitions` the whole topic.
---@class consumer.Selection
---@field topic? string
---@field partition? integer
---@field partitions? integer[]

---A consumer of the process.
---@class consumer
---@field pause fun(which?: consumer.Selection|consumer.Selection[])
---@field resume fun(which?: consumer.Selection|consumer.Selection[])
---@field seek fun(to: { offset?: integer|string, timestamp?: integer, topic?: string, partition?: integer })
---@field paused fun(): { topic: string, partitions: integer[] }[]
---@field position fun(of?: consumer.Partition): integer
---@field committed fun(of?: consumer.Partition): integer?
---@field lag fun(of?: consumer.Partition): integer

---Messages of one partition.
---@class batch
---@field topic string
---@field partition integer
---@field messages message[]
---@field highWatermark integer
---@field firstOffset fun(): integer
---@field lastOffset fun(): integer
---@field isEmpty fun(): boolean
---@field offsetLag fun(): integer
---@field offsetLagLow fun(): integer

---A message that is finished later.
---@class deferral
---@field done fun(self?: deferral): boolean whether the answer counts
---@field fail fun(self?: deferral, reason?: any): boolean whether the answer counts

---The call of a handler.
---@class ctx
---@field topic string
---@field partition integer
---@field offset integer
---@field message message
---@field requestContext table a table of this call
---@field logger logger
---@field getLogger fun(name: string): logger
---@field setAttr fun(key: string, value: any)
---@field getAttr fun(key: string): any
---@field startTime integer milliseconds since the epoch
---@field attempt integer runs of the message, this one included
---@field headers fun(name: string): string[]
---@field trace trace
---@field app app
---@field consumer consumer
---@field commitOffsets fun(offset: integer|string, options?: { wait?: boolean }): integer?
---@field emit fun(options: { topic: string, messages?: table[], value?: string|lightuserdata, key?: string, headers?: table, partition?: integer, timestamp?: integer, producer?: string, of?: message })
---@field defer fun(options?: { timeout?: number|string }): deferral
---@field retry fun(reason?: string|{ after?: number|string, reason?: string })
---@field deadLetter fun(reason?: string)
---@field skip fun(reason?: string)
---@field resolveOffset fun(offset: integer|string)
---@field failAt fun(index: integer, reason?: string)
---@field commitOffsetsIfNecessary fun(offset?: integer|string|table): integer?
---@field uncommittedOffsets fun(): { topics: { topic: string, partitions: { partition: integer, offset: integer }[] }[] }
---@field isRunning fun(): boolean
---@field isStale fun(): boolean
---@field heartbeat fun()
---@field pause fun(): fun()

---The response to a request.
---@class tide.http.Response
---@field status integer
---@field headers table<string, string|string[]> a lookup ignores case
---@field body string
---@field check fun(self: tide.http.Response): tide.http.Response raises from status 400 on
---@field json fun(self: tide.http.Response): any

---The options of a request.
---@class tide.http.Options
---@field headers? table<string, string|string[]>
---@field query? table<string, any>
---@field body? string
---@field json? any
---@field form? table<string, any>
---@field timeout? number|string
---@field redirects? integer
---@field maxBody? integer
---@field certificate? string

---The same, with its address.
---@class tide.http.Request: tide.http.Options
---@field method? string
---@field url string

---A regular expression.
---@class tide.Regex
---@field find fun(self: tide.Regex, text: string, init?: integer): integer?, integer?, table? from, to and the groups
---@field gmatch fun(self: tide.Regex, text: string): fun(): table?
---@field match fun(self: tide.Regex, text: string, init?: integer): table? the groups; 0 is the whole match
---@field replace fun(self: tide.Regex, text: string, with: string|fun(groups: table): string?, limit?: integer): string, integer
---@field split fun(self: tide.Regex, text: string, limit?: integer): string[]
---@field test fun(self: tide.Regex, text: string): boolean
