// The sound: two partials of a small bell, struck again until somebody stops it. Made here, so that no file has to be fetched, and none can fail.

const EVERY_MS = 1_600;
/** A strike and its octave-and-a-bit, which is what makes it metal. */
const PARTIALS = [
  [1046.5, 0.5, 1.3],
  [2637, 0.18, 0.8],
];

let audio = null;
let timer = 0;

function strike() {
  const now = audio.currentTime;
  for (const [frequency, loudness, seconds] of PARTIALS) {
    const [tone, volume] = [audio.createOscillator(), audio.createGain()];
    tone.frequency.value = frequency;
    volume.gain.setValueAtTime(loudness, now);
    volume.gain.exponentialRampToValueAtTime(0.001, now + seconds);
    tone.connect(volume).connect(audio.destination);
    tone.start(now);
    tone.stop(now + seconds);
  }
}

/** Browsers let a page sound only once somebody has touched it. False while they do not. */
export async function mayRing() {
  if (!audio && navigator.userActivation?.hasBeenActive === false) {
    return false;
  }
  audio ??= new AudioContext();
  // Resuming waits for a touch that may never come.
  await Promise.race([audio.resume(), new Promise((done) => setTimeout(done, 300))]);
  return audio.state === "running";
}

/** Rings until `hush`. */
export function ring() {
  if (!timer && audio?.state === "running") {
    strike();
    timer = setInterval(strike, EVERY_MS);
  }
}

export function hush() {
  clearInterval(timer);
  timer = 0;
}

export const rings = () => timer !== 0;
