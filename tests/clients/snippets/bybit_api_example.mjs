// bybit-api: baseUrl, without a slash at its end.
import { RestClientV5 } from 'bybit-api';

const client = new RestClientV5({
  // key: ..., secret: ... as ever
  baseUrl: process.env.GATEWAY_URL ?? 'http://127.0.0.1:8080',
});

const answer = await client.getKline({ category: 'linear', symbol: 'BTCUSDT', interval: '60', limit: 1 });
console.log(answer.result.list[0]);
