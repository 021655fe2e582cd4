import { RestClientV5 } from 'bybit-api';
import ccxt from 'ccxt';
import { converse, key, recvWindow, secret } from './conversation.mjs';

// {case: {base, headers, calls}}
const cases = JSON.parse(process.env.CASES);
const linear = { category: 'linear', symbol: 'SOLUSDT' };
const candles = { ...linear, interval: '60', limit: 2 };
const order = { ...linear, side: 'Buy', orderType: 'Limit', qty: '1', price: '1' };

function bybitApi(base, headers) {
  const client = new RestClientV5({ key, secret, baseUrl: base, recv_window: recvWindow }, { timeout: 10_000, headers });
  return {
    candles: () => client.getKline(candles),
    orders: () => client.getActiveOrders(linear),
    order: () => client.submitOrder(order),
  };
}

function ofCcxt(base, headers) {
  const exchange = new ccxt.bybit({
    apiKey: key,
    secret,
    headers,
    enableRateLimit: false,
    options: { recvWindow },
    urls: { api: { public: base, private: base, spot: base, futures: base, v2: base } },
  });
  return {
    candles: () => exchange.publicGetV5MarketKline(candles),
    orders: () => exchange.privateGetV5OrderRealtime(linear),
    order: () => exchange.privatePostV5OrderCreate(order),
  };
}

const operations = {};
for (const [name, { base, headers, calls }] of Object.entries(cases)) {
  for (const [client, made] of Object.entries({ 'bybit-api': bybitApi(base, headers), ccxt: ofCcxt(base, headers) })) {
    for (const call of calls) operations[`${client}, ${name}, ${call}`] = made[call];
  }
}
await converse(operations);
