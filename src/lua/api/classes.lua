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
---@field commitOffsets fun(offset: integer|string, options?: { wait?: boolean }): integer?
---@field retry fun(reason?: string|{ after?: number|string, reason?: string })
---@field deadLetter fun(reason?: string)
---@field skip fun(reason?: string)
