// Transcripts in S3, on AWS's own client, in the layout of the Claude Agent SDK's reference adapter for
// TypeScript, which is no package. It is written from that layout, and shares no code with snapstore.
import {
  DeleteObjectsCommand,
  GetObjectCommand,
  PutObjectCommand,
  paginateListObjectsV2,
} from '@aws-sdk/client-s3'

const MAIN_PART = /^([^/]+)\/part-(\d{13})-[0-9a-f]{6}\.jsonl$/

export class S3SessionStore {
  #bucket
  #client
  #prefix
  #last = 0

  constructor({ bucket, prefix, client }) {
    this.#bucket = bucket
    this.#client = client
    this.#prefix = prefix ? `${prefix.replace(/\/+$/, '')}/` : ''
  }

  async append(key, entries) {
    if (!entries.length) return
    this.#last = Math.max(Date.now(), this.#last + 1)
    const random = Math.floor(Math.random() * 16 ** 6).toString(16).padStart(6, '0')
    await this.#client.send(new PutObjectCommand({
      Bucket: this.#bucket,
      Key: `${this.#directory(key)}part-${String(this.#last).padStart(13, '0')}-${random}.jsonl`,
      Body: entries.map((entry) => `${JSON.stringify(entry)}\n`).join(''),
      ContentType: 'application/x-ndjson',
    }))
  }

  async load(key) {
    const parts = (await this.#list(this.#directory(key), '/')).sort()
    const entries = []
    for (const part of parts) {
      const found = await this.#client.send(new GetObjectCommand({ Bucket: this.#bucket, Key: part }))
      const lines = (await found.Body.transformToString()).split('\n')
      entries.push(...lines.filter((line) => line.trim()).map((line) => JSON.parse(line)))
    }
    return entries.length ? entries : null
  }

  async listSessions(projectKey) {
    const project = `${this.#prefix}${encodeURIComponent(projectKey)}/`
    const times = new Map()
    for (const key of await this.#list(project)) {
      const [, session, time] = key.slice(project.length).match(MAIN_PART) ?? []
      if (!session) continue
      const sessionId = decodeURIComponent(session)
      times.set(sessionId, Math.max(Number(time), times.get(sessionId) ?? 0))
    }
    return [...times].map(([sessionId, mtime]) => ({ sessionId, mtime }))
  }

  async listSubkeys({ projectKey, sessionId }) {
    const session = this.#directory({ projectKey, sessionId })
    const directories = (await this.#list(session))
      .map((key) => key.slice(session.length).split('/').slice(0, -1).join('/'))
    return [...new Set(directories)].filter(Boolean).map(decodeURIComponent)
  }

  async delete(key) {
    const keys = await this.#list(this.#directory(key), key.subpath === undefined ? undefined : '/')
    if (!keys.length) return
    await this.#client.send(new DeleteObjectsCommand({
      Bucket: this.#bucket,
      Delete: { Objects: keys.map((Key) => ({ Key })) },
    }))
  }

  #directory({ projectKey, sessionId, subpath }) {
    const ids = [projectKey, sessionId, ...(subpath ? [subpath] : [])]
    return `${this.#prefix}${ids.map(encodeURIComponent).join('/')}/`
  }

  async #list(Prefix, Delimiter) {
    const keys = []
    const pages = paginateListObjectsV2(
      { client: this.#client },
      { Bucket: this.#bucket, Prefix, Delimiter },
    )
    for await (const page of pages) keys.push(...(page.Contents ?? []).map(({ Key }) => Key))
    return keys
  }
}
