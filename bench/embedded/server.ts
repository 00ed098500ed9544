/** The server of the bench, as a process of its own: the shop, and a route that only parses and answers. */
import { serve } from 'headrace/server'
import { defineShop } from './shop.ts'

const [dataDir = ''] = process.argv.slice(2)
const { app, fill } = defineShop(dataDir)
await app.start()
await app.submit(fill, { skus: ['hot'] })
const { url, close } = await serve(app, {
  host: '127.0.0.1',
  port: 0,
  logLevel: 'error',
  register(fastify) {
    fastify.post('/parse', async (request, reply) => {
      const { sku, buyer } = request.body as { sku: string; buyer: string }
      return reply
        .type('application/json')
        .send(`{"id":"k","command":"order.buy","status":"committed","position":1,"result":{"order":"${sku}-${buyer}"}}`)
    })
  },
})
process.on('SIGTERM', () => void close().then(() => process.exit(0)))
process.send?.({ url })
