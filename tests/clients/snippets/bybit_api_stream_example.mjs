// bybit-api: one address for all topics of a client, so a client for each kind of stream.
import { WebsocketClient } from 'bybit-api';

const base = (process.env.GATEWAY_URL ?? 'http://127.0.0.1:8080').replace('http', 'ws');
const client = new WebsocketClient({
  // key: ..., secret: ... and `${base}/v5/private` for the private one
  wsUrl: `${base}/v5/public/linear`,
});

client.on('update', ({ data: [candle] }) => {
  console.log([candle.start, candle.open]);
  process.exit(0);
});
client.subscribeV5('kline.60.BTCUSDT', 'linear');
