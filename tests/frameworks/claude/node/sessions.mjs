// Calls an adapter: a request a line on stdin, its answer a line on stdout.
// node sessions.mjs <module of the adapter>
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { S3Client } from '@aws-sdk/client-s3'

const { S3SessionStore } = await import(pathToFileURL(process.argv[2]))
const client = new S3Client({ forcePathStyle: true })
const stores = new Map()

for await (const line of createInterface({ input: process.stdin })) {
  const { bucket, prefix, call, args } = JSON.parse(line)
  if (!stores.has(prefix)) stores.set(prefix, new S3SessionStore({ bucket, prefix, client }))
  let answer
  try {
    answer = { result: (await stores.get(prefix)[call](...args)) ?? null }
  } catch (error) {
    answer = { error: String(error?.stack ?? error) }
  }
  console.log(JSON.stringify(answer))
}
