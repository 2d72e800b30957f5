// Saves and loads with the Strands SDK's own S3Storage: a command a line on stdin, an answer a line
// on stdout. `node.py` runs it, from a folder that has the SDK in `node_modules`.
//
// Where S3 is, and its credentials, come from the environment.

import { createInterface } from 'node:readline'
import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { S3Client } from '@aws-sdk/client-s3'
import { S3Storage } from '@strands-agents/sdk/session/s3-storage'

const workloads = new Map()
let storage

const location = (slot) => ({ sessionId: `session-${slot}`, scope: 'agent', scopeId: 'weather' })

const load = (slot) => storage.loadSnapshot({ location: location(slot) })

const save = (slot, snapshot) =>
  storage.saveSnapshot({ location: location(slot), snapshotId: 'latest', isLatest: true, snapshot })

async function measured(work) {
  const cpu = process.cpuUsage()
  const wall = process.hrtime.bigint()
  await work()
  const { user, system } = process.cpuUsage(cpu)
  return { cpu: (user + system) / 1e6, wall: Number(process.hrtime.bigint() - wall) / 1e9 }
}

const commands = {
  open({ bucket, prefix, pool }) {
    const options = { keepAlive: true, maxSockets: pool, maxFreeSockets: pool }
    const requestHandler = { httpAgent: new HttpAgent(options), httpsAgent: new HttpsAgent(options) }
    const s3Client = new S3Client({ forcePathStyle: true, requestHandler })
    storage = new S3Storage({ bucket, prefix, s3Client })
  },

  take({ name, document }) {
    workloads.set(name, document)
  },

  load: ({ slot }) => load(slot),

  async block({ operation, workload, count, concurrency }) {
    const snapshot = workloads.get(workload)
    const latencies = []
    let left = count
    const work = async (slot) => {
      while (left > 0) {
        left -= 1
        const start = process.hrtime.bigint()
        await (operation === 'save' ? save(slot, snapshot) : load(slot))
        latencies.push(Number(process.hrtime.bigint() - start) / 1e9)
      }
    }
    // What an earlier block left behind is not for this one to collect.
    globalThis.gc()
    const cost = await measured(() =>
      Promise.all(Array.from({ length: concurrency }, (_, slot) => work(slot))),
    )
    return { count, latencies, ...cost }
  },

  deleteSession: ({ sessionId }) => measured(() => storage.deleteSession({ sessionId })),
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
