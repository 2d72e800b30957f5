// Runs agents of the Strands SDK for TypeScript: what to run, a line on stdin; what came of it, a
// line on stdout. Each run has agents of its own, as after a restart: all they know is the session.
//
//   {"kind": "agent", "bucket": "b", "prefix": "p", "session": "s", "id": "a",
//    "agents": [{"id": "a", "script": [{"content": [{"text": "Hello"}]}]}], "input": "Hi"}
//   {"result": {…}}  or  {"error": "…"}
//
// Models are scripts: for each call of one, the content of its answer. Where S3 is, and its
// credentials, come from the environment. This file is run from a folder that has the SDK in
// `node_modules`.

import { createInterface } from 'node:readline'
import { S3Client } from '@aws-sdk/client-s3'
import {
  Agent,
  BeforeToolCallEvent,
  FunctionTool,
  Graph,
  Model,
  SessionManager,
  Swarm,
  configureLogging,
} from '@strands-agents/sdk'
import { S3Storage } from '@strands-agents/sdk/storage'

const warnings = []
configureLogging({ debug() {}, info() {}, warn: (...said) => warnings.push(said.join(' ')), error: console.error })

const s3Client = new S3Client({ forcePathStyle: true })

class ScriptedModel extends Model {
  constructor(script) {
    super()
    this.script = script
    this.asked = []
  }

  getConfig() {
    return { modelId: 'script', contextWindowLimit: 100_000 }
  }

  updateConfig() {}

  async *stream(messages, { modelState, systemPrompt }) {
    this.asked.push({ messages: messages.map((message) => message.toJSON()), systemPrompt })
    const turn = this.script.shift()
    if (turn.fails) throw new Error(turn.fails)
    if (turn.responseId) modelState.set('responseId', turn.responseId)
    yield { type: 'modelMessageStartEvent', role: 'assistant' }
    for (const { text, toolUse, reasoning } of turn.content) {
      const start = toolUse && { start: { type: 'toolUseStart', ...toolUse, input: undefined } }
      yield { type: 'modelContentBlockStartEvent', ...start }
      let delta = { type: 'textDelta', text }
      if (toolUse) delta = { type: 'toolUseInputDelta', input: JSON.stringify(toolUse.input) }
      if (reasoning) delta = { type: 'reasoningContentDelta', ...reasoning }
      yield { type: 'modelContentBlockDeltaEvent', delta }
      yield { type: 'modelContentBlockStopEvent' }
    }
    const stopReason = turn.content.some((block) => block.toolUse) ? 'toolUse' : 'endTurn'
    yield { type: 'modelMessageStopEvent', stopReason }
  }
}

const inputSchema = { type: 'object', properties: {} }

const tools = () => [
  new FunctionTool({
    name: 'weather',
    description: 'Tells the weather',
    inputSchema,
    callback: () => ({ rain: true, mm: 3.5, until: null }),
  }),
  new FunctionTool({
    name: 'book',
    description: 'Books a room when a person agrees',
    inputSchema,
    callback: (_, context) => 'booked for ' + context.interrupt({ name: 'approve', reason: { price: 3 } }),
  }),
  new FunctionTool({
    name: 'delete',
    description: 'Deletes all, when a hook lets it',
    inputSchema,
    callback: () => 'deleted',
  }),
]

function agentOf({ id, script, systemPrompt, state, stash }, sessionManager, storage) {
  const model = new ScriptedModel(script)
  const agent = new Agent({
    id,
    model,
    tools: tools(),
    printer: false,
    ...(systemPrompt && { systemPrompt }),
    ...(state && { appState: state }),
    ...(sessionManager && { sessionManager }),
    ...(stash && { contextManager: 'auto' }),
    ...(stash === 'durable' && { storage }),
  })
  agent.addHook(BeforeToolCallEvent, (event) => {
    if (event.toolUse.name !== 'delete') return
    if (event.interrupt({ name: 'allow', reason: 'all of it' }) !== 'yes') event.cancel = 'not allowed'
  })
  return { agent, model }
}

const storageOf = ({ bucket, prefix }) => new S3Storage(bucket, { prefix, s3Client })
const sessionOf = (run) => new SessionManager({ sessionId: run.session, storage: storageOf(run) })

const kinds = {
  async agent(run) {
    const sessionManager = sessionOf(run)
    const { agent, model } = agentOf(run.agents[0], sessionManager, storageOf(run))
    warnings.length = 0
    await agent.initialize()
    const history = await sessionManager.listSnapshotIds({ target: agent })
    if (run.restore !== undefined)
      await sessionManager.restoreSnapshot({ target: agent, snapshotId: history[run.restore] })
    const result = run.input === undefined ? undefined : await agent.invoke(run.input)
    if (run.save) await sessionManager.saveSnapshot({ target: agent, isLatest: run.save === 'latest' })
    const { messages, state, systemPrompt, modelState, interrupts } = agent.takeSnapshot({ preset: 'session' }).data
    return {
      status: result?.stopReason,
      text: result?.toString(),
      interrupts: result?.interrupts,
      messages,
      state,
      system_prompt: systemPrompt,
      model_state: modelState,
      interrupt_state: interrupts,
      history,
      warnings,
      asked: { [agent.id]: model.asked },
    }
  },

  // Restores and saves each snapshot without a session; gives the error of each, or null.
  restore: ({ snapshots }) =>
    snapshots.map((snapshot) => {
      try {
        const agent = new Agent({ model: new ScriptedModel([]), printer: false })
        agent.loadSnapshot(snapshot)
        agent._interruptState.getPendingExecution()
        JSON.stringify(agent.takeSnapshot({ preset: 'session' }))
        return null
      } catch (error) {
        return String(error)
      }
    }),

  graph: (run) =>
    orchestrate(run, (nodes, sessionManager) => new Graph({ id: run.id, nodes, edges: run.edges, sessionManager })),

  swarm: (run) => orchestrate(run, (nodes, sessionManager) => new Swarm({ id: run.id, nodes, sessionManager })),
}

async function orchestrate(run, make) {
  const made = run.agents.map((options) => agentOf(options))
  const orchestrator = make(
    made.map(({ agent }) => agent),
    sessionOf(run),
  )
  const result = await orchestrator.invoke(run.input)
  return {
    status: result.status,
    interrupts: result.interrupts,
    asked: Object.fromEntries(made.map(({ agent, model }) => [agent.id, model.asked])),
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const run = JSON.parse(line)
  let answer
  try {
    answer = { result: await kinds[run.kind](run) }
  } catch (error) {
    answer = { error: `${error}${error.cause ? `, since ${error.cause}` : ''}` }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
