// Lives the life of `life.py` with the Strands SDK's own S3Storage: a command a line on stdin, an
// answer a line on stdout. `node.py` runs it, from a folder that has the SDK in `node_modules`.
//
// Where S3 is, and its credentials, come from the environment.

import { createInterface } from 'node:readline'
import { S3Client } from '@aws-sdk/client-s3'
import { S3Storage } from '@strands-agents/sdk/session/s3-storage'

let workers, worker, location, constant, createdAt, messages

const storage = () => workers[worker]

async function measured(work) {
  const cpu = process.cpuUsage()
  const wall = process.hrtime.bigint()
  await work()
  const { user, system } = process.cpuUsage(cpu)
  return { cpu: (user + system) / 1e6, wall: Number(process.hrtime.bigint() - wall) / 1e9 }
}

const save = (snapshotId, snapshot) =>
  storage().saveSnapshot({ location, snapshotId, isLatest: snapshotId === 'latest', snapshot })

const commands = {
  open({ bucket, prefix, ...given }) {
    workers = [0, 1].map(
      () => new S3Storage({ bucket, prefix, s3Client: new S3Client({ forcePathStyle: true }) }),
    )
    ;({ constant, createdAt } = given)
  },

  begin({ sessionId }) {
    worker = 0
    location = { sessionId, scope: 'agent', scopeId: 'weather' }
    messages = []
    globalThis.gc()
  },

  add({ added }) {
    messages.push(...added)
  },

  messages: () => messages,

  save: ({ snapshotId }) =>
    measured(async () => {
      const data = { messages, ...constant }
      const snapshot = { scope: 'agent', schemaVersion: '1.0', createdAt, data, appData: {} }
      await save(snapshotId, snapshot)
      await save('latest', snapshot)
    }),

  resume: () => {
    worker = 1 - worker
    return measured(async () => {
      messages = (await storage().loadSnapshot({ location })).data.messages
    })
  },

  rewind: ({ snapshotId }) =>
    measured(async () => {
      const snapshot = await storage().loadSnapshot({ location, snapshotId })
      await save('latest', snapshot)
      messages = snapshot.data.messages
    }),
}

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line)
  let answer
  try {
    answer = { result: (await commands[command](options)) ?? null }
  } catch (error) {
    answer = { error: `${error}${error.cause ? `, since ${error.cause}` : ''}` }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
