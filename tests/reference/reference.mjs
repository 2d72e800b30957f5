// Runs the Strands SDK's own storages: a call a line on stdin, its answer a line on stdout.
//
//   {"storage": {"kind": "FileStorage", "root": "/tmp/x"}, "call": "loadManifest", "params": {…}}
//   {"result": {…}}  or  {"error": "SessionError: …"}
//
// To the calls of the SDK it adds `copyHistory`, which reads each snapshot and writes it again.
//
// Where S3 is, and its credentials, come from the environment. This file is run from a folder that
// has the SDK in `node_modules`.

import { createInterface } from 'node:readline'
import { S3Client } from '@aws-sdk/client-s3'
import { S3Storage } from '@strands-agents/sdk/session/s3-storage'
import { S3Storage as UnifiedS3Storage } from '@strands-agents/sdk/storage'
// The package's entry exports these, or hides them, behind peer dependencies that are not needed.
const sdk = './node_modules/@strands-agents/sdk/dist/src'
const { FileStorage } = await import(`${sdk}/session/file-storage.js`)
const { SnapshotStorageAdapter } = await import(`${sdk}/session/snapshot-storage-adapter.js`)
const { namespace } = await import(`${sdk}/storage/storage.js`)

const s3Client = new S3Client({ forcePathStyle: true })

const kinds = {
  S3Storage: ({ bucket, prefix }) => new S3Storage({ bucket, prefix, s3Client }),
  FileStorage: ({ root }) => new FileStorage(root),
  // As `SessionManager` makes one of the storage that users hand it.
  UnifiedStorage: ({ bucket, prefix }) =>
    new SnapshotStorageAdapter(namespace(new UnifiedS3Storage(bucket, { prefix, s3Client }), 'session')),
}

const copyHistory = async (storage, { location, to }) => {
  for (const snapshotId of await storage.listSnapshotIds({ location })) {
    const snapshot = await storage.loadSnapshot({ location, snapshotId })
    await storage.saveSnapshot({ location: to, snapshotId, isLatest: false, snapshot })
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { storage: options, call, params } = JSON.parse(line)
  let answer
  try {
    const storage = kinds[options.kind](options)
    const run = call === 'copyHistory' ? copyHistory(storage, params) : storage[call](params)
    answer = { result: await run }
  } catch (error) {
    answer = { error: `${error}${error.cause ? `, since ${error.cause}` : ''}` }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
