import { RestClientV5 } from 'bybit-api';
import { base, converse, FROM, HOUR, key, pages, recvWindow, secret } from './conversation.mjs';

const client = new RestClientV5({ key, secret, baseUrl: base, recv_window: recvWindow }, { timeout: 30_000 });
const stranger = new RestClientV5({ key, secret: 'wrong', baseUrl: base, recv_window: recvWindow });
const linear = { category: 'linear', symbol: 'BTCUSDT' };
const order = (link, more = {}) => ({
  symbol: 'BTCUSDT', side: 'Buy', orderType: 'Limit', qty: '0.01', price: '1000.5', orderLinkId: link, ...more,
});

await converse({
  'server time': () => client.getServerTime(),
  'newest candles': () => client.getKline({ ...linear, interval: '1' }),
  'newest candles, limited': () => client.getKline({ ...linear, interval: '60', limit: 3 }),
  'candles from a start': () => client.getKline({ ...linear, interval: '5', start: FROM, limit: 7 }),
  'candles to an end': () => client.getKline({ ...linear, interval: 'D', end: FROM, limit: 7 }),
  'candles of a closed range': () => client.getKline({ ...linear, interval: '15', start: FROM, end: FROM + 6 * HOUR }),
  'candles of a long closed range': () =>
    client.getKline({ ...linear, interval: '1', start: FROM, end: FROM + 12 * HOUR, limit: 1000 }),
  'candles asked for again': async () => {
    const question = { ...linear, interval: '30', start: FROM, end: FROM + 8 * HOUR };
    const answers = [];
    for (let time = 0; time < 3; time += 1) answers.push(await client.getKline(question));
    return answers;
  },
  'mark price candles': () => client.getMarkPriceKline({ ...linear, interval: '60', limit: 4 }),
  'index price candles': () => client.getIndexPriceKline({ ...linear, interval: '60', limit: 4 }),
  'premium index candles': () => client.getPremiumIndexPriceKline({ ...linear, interval: '60', limit: 4 }),
  'one ticker': () => client.getTickers(linear),
  'all tickers': () => client.getTickers({ category: 'spot' }),
  'order book': () => client.getOrderbook({ ...linear, limit: 50 }),
  'recent trades': () => client.getPublicTradingHistory({ ...linear, limit: 20 }),
  'instruments, page by page': () => pages((q) => client.getInstrumentsInfo(q), { category: 'linear', limit: 250 }, 3),
  'open interest, page by page': () =>
    pages((q) => client.getOpenInterest(q), { ...linear, intervalTime: '1h', limit: 3 }, 4),
  "an order's life": async () => {
    const created = await client.submitOrder({ category: 'linear', ...order('life') });
    const { orderId } = created.result;
    return [
      created,
      await client.getActiveOrders({ ...linear, orderId }),
      await client.amendOrder({ ...linear, orderId, price: '1001' }),
      await client.cancelOrder({ ...linear, orderId }),
      await client.getHistoricOrders({ ...linear, orderId }),
    ];
  },
  'orders, page by page': async () => {
    for (let number = 0; number < 5; number += 1) {
      await client.submitOrder({ category: 'linear', ...order(`page-${number}`) });
    }
    const found = await pages((q) => client.getActiveOrders(q), { ...linear, limit: 2 }, 9);
    return [...found, await client.cancelAllOrders(linear)];
  },
  'a batch': async () => [
    await client.batchSubmitOrders('linear', [
      order('batch-0'), order('batch-1', { price: '999' }), order('batch-bad', { qty: '-1' }),
    ]),
    await client.batchCancelOrders('linear', ['batch-0', 'batch-1', 'batch-2'].map((orderLinkId) => ({
      symbol: 'BTCUSDT', orderLinkId,
    }))),
  ],
  'a market order': async () => [
    await client.submitOrder({ category: 'linear', symbol: 'ETHUSDT', side: 'Sell', orderType: 'Market', qty: '1' }),
    await client.getPositionInfo({ category: 'linear', settleCoin: 'USDT' }),
    await client.getExecutionList({ category: 'linear', symbol: 'ETHUSDT' }),
  ],
  'wallet, two coins': () => client.getWalletBalance({ accountType: 'UNIFIED', coin: 'BTC,USDT' }),
  'a value that has to be quoted': () => client.getTickers({ category: 'linear', symbol: 'BTC USDT|\u00e9' }),
  'an unknown symbol': () => client.getKline({ category: 'linear', symbol: 'NOSUCHUSDT', interval: '1' }),
  'an unknown order': () => client.cancelOrder({ ...linear, orderLinkId: 'never-placed' }),
  'a path that is not there': () => client.getPrivate('/v5/no/such', { a: 'b' }),
  'a wrong secret': () => stranger.getAccountInfo(),
});
