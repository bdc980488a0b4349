// One EventSource of the npm package for each URL. Each prints the numbers that it got when it gets the event `end`.
import { EventSource } from 'eventsource';

// The timers of the package do not keep the process alive.
const alive = setInterval(() => {}, 1000);
await Promise.all(process.argv.slice(2).map(url => new Promise(done => {
    const source = new EventSource(url);
    const got = [];
    source.onmessage = ({ data }) => got.push(Number(data));
    source.addEventListener('gap', ({ data }) => got.push(data));
    source.addEventListener('end', () => {
        source.close();
        console.log(JSON.stringify(got));
        done();
    });
})));
clearInterval(alive);
